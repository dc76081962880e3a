// The producer of the paged kernels: finds the block's share of all pages and feeds the math warps.
// sm90_paged.cuh has its barriers.
#pragma once
#include <cstdint>

#include "device/ptx/copy.cuh"
#include "device/ptx/grid.cuh"
#include "device/ptx/mbarrier.cuh"
#include "device/ptx/warp.cuh"
#include "kernels/indexer/args.h"
#include "kernels/indexer/page_tickets.cuh"
#include "kernels/indexer/scoring.cuh"

namespace dsa_ops::indexer {

// A long call's first pages push out of the L2 what the kernels before have left dirty there: pages
// that leave first would make do with what room there is beside it. README.md has times.
inline constexpr int32_t kPushingPages = 12000;

// The rows of a row tile: the request, its first token and how many tokens.
struct TileRows {
  int32_t request;
  int32_t first_token;
  int32_t tokens;
};

template <class Tile>
__device__ __forceinline__ TileRows tile_rows(PagedArgs const& args, int32_t row_tile) {
  // Most calls have one tile per request: their way to the first page saves the divisions.
  if (args.tiles_per_request == 1) return TileRows{row_tile, 0, args.lengths.next_n};
  TileRows rows;
  rows.request = row_tile / args.tiles_per_request;
  rows.first_token = row_tile % args.tiles_per_request * Tile::kQueries;
  rows.tokens = min(Tile::kQueries, args.lengths.next_n - rows.first_token);
  return rows;
}

// Pages that hold every key any of the rows sees; 0 where no row needs scores.
template <class Tile>
__device__ __forceinline__ int32_t pages_of(PagedArgs const& args, TileRows const& rows) {
  int32_t length = 0;
#pragma unroll
  for (int32_t j = 0; j < Tile::kQueries; ++j) {
    // A row past the last reads the last one's again: the loads depend on nothing and overlap.
    int32_t const token = rows.first_token + min(j, rows.tokens - 1);
    length = max(length, args.lengths.of(rows.request, token));
  }
  return length <= args.unscored_length ? 0 : (length + kPageKeys - 1) / kPageKeys;
}

// The same of a row tile; 0 for tiles past the last.
template <class Tile>
__device__ __forceinline__ int32_t pages_of(PagedArgs const& args, int32_t row_tile) {
  return row_tile < args.row_tiles ? pages_of<Tile>(args, tile_rows<Tile>(args, row_tile)) : 0;
}

// The order in which a row tile's pages are scored: a place count() of them, page(place) at each,
// which may lie past the last page. kTaken: blocks take some of a long row tile's as they come, and
// skip_part() of those that have none of it else. kTilePerRequest: requests have no further row
// tiles. kFills: the math warps ask at the end whether there are columns past the pages.
struct PagesInOrder {
  using Args = PagedArgs;
  static constexpr bool kTaken = false;
  static constexpr bool kTilePerRequest = false;
  static constexpr bool kFills = true;
  int32_t pages;

  __device__ __forceinline__ explicit PagesInOrder(int32_t row_pages) : pages(row_pages) {}
  __device__ __forceinline__ int32_t count() const { return pages; }
  __device__ __forceinline__ int32_t page(int32_t place) const { return place; }
};

// Of so many places of a row tile that has some to take, those that are not.
__device__ __forceinline__ int32_t fixed_places(int32_t places) {
  constexpr int32_t kTakenPart = 4;
  return places - places / kTakenPart;
}

// Stages of the ring that blocks use which take pages: with fewer pages in flight a longer call
// leaves more of the dirty lines in the L2 where they are.
__device__ __forceinline__ uint32_t used_stages(int32_t total, uint32_t stages) {
  constexpr int32_t kFewStages = 24000;
  return total < kFewStages ? stages : stages - 1;
}

// Shares of `total` places, one block's after the other. Whole ones are equal but for the last
// blocks', so that rows of one length begin with a share; even ones, where blocks take pages, leave
// no block without. Products that are divided fit 26 bits, for which the inverse of the number of
// blocks is exact.
struct PageShares {
  uint32_t total;
  uint32_t blocks;
  uint64_t inverse;
  bool even;

  // With fewer places a block, those that are taken would be missing in the parts' samples.
  __device__ __forceinline__ PageShares(uint32_t total, uint32_t blocks, PageTickets const& tickets)
      : total(total), blocks(blocks), inverse(tickets.inverse) {
    constexpr uint32_t kBlockPlaces = 16;
    even = tickets.words != nullptr && total >= kBlockPlaces * blocks;
  }
  __device__ __forceinline__ uint32_t begin(uint32_t block) const {
    return even ? over_blocks(block * total) : min(whole() * block, total);
  }
  // The block in whose share a place lies.
  __device__ __forceinline__ uint32_t block_at(uint32_t place) const {
    return even ? ((place + 1) * blocks - 1) / total : place / whole();
  }
  // A row tile of so many places has some to take: some block's share is of none but its places.
  __device__ __forceinline__ int32_t taken_from() const {
    return even ? static_cast<int32_t>(3 * whole()) : kNoneTaken;
  }

 private:
  __device__ __forceinline__ uint32_t whole() const { return over_blocks(total + blocks - 1); }
  __device__ __forceinline__ uint32_t over_blocks(uint32_t places) const {
    return static_cast<uint32_t>(places * inverse >> kInverseBits);
  }
};

template <class Tile>
__device__ __forceinline__ void load_queries(PagedArgs const& args, PagedStorage<Tile>& shared,
                                             uint32_t stage, int32_t first_token, int32_t request) {
  uint64_t* const full = &shared.query_full[stage];
  ptx::mbarrier_arrive_expect_tx(full, Tile::kQueryBytes);
  ptx::tma_load_4d(shared.queries[stage], &args.query_map, full, 0, 0, first_token, request);
}

template <class Tile, class Order = PagesInOrder>
class PagedProducer {
  using Block = PagedBlock<Tile>;
  // Blocks of 256 columns wait for products, not for memory.
  static constexpr bool kPushes = Tile::kColumns <= 128;

 public:
  using Args = typename Order::Args;

  __device__ PagedProducer(Args const& args, PagedStorage<Tile>& shared, int lane)
      : args_(args), shared_(shared), lane_(lane) {}

  // Reads the lengths; needs no barrier yet. Page counts fit 32 bits: 64 logits of 4 bytes exist
  // for (almost) every page counted.
  __device__ void plan() {
    if (ptx::elect_one()) {
      ptx::prefetch_tensor_map(&args_.query_map);
      if (args_.num_pages > 0) ptx::prefetch_tensor_map(&args_.key_map);
    }
    ptx::wait_for_prior_kernels();
    if constexpr (Tile::kOnly) {
      first_ids_ = page_id(args_.block_table, place_in_turn(lane_), max_pages());
      total_ = pages_of<Tile>(args_, TileRows{0, 0, args_.lengths.next_n});
    } else {
      first_pages_ = pages_of_tile(lane_);
      total_ = __reduce_add_sync(~0u, Order(first_pages_).count() + places_of_rest());
      if constexpr (Order::kTaken) {
        if (lane_ == 0) {
          shared_.used_stages = used_stages(total_, Block::kKeyStages);
          shared_.taken_from = shares().taken_from();
        }
        __syncwarp();
      }
    }
    if (kPushes && total_ >= kLongCallPages) {
      pushing_ = kPushingPages / static_cast<int32_t>(gridDim.x) + 1;
    }
    page_policy_ = pushing_ > 0 ? ptx::evict_normal_policy() : ptx::evict_first_policy();
  }

  __device__ void run() {
    if constexpr (Tile::kOnly) return run_in_turn();
    int32_t begin;
    int32_t end;
    if constexpr (Order::kTaken) {
      begin = static_cast<int32_t>(shares().begin(blockIdx.x));
      end = static_cast<int32_t>(shares().begin(blockIdx.x + 1));
    } else {
      // Whole stages, so that only a piece's last one can be half empty. 32 bits hold the product,
      // as a grid has a block less than there are stages at most.
      int32_t const blocks = static_cast<int32_t>(gridDim.x);
      int32_t const stages = (total_ + Block::kWarpgroups - 1) / Block::kWarpgroups;
      int32_t const share = (stages + blocks - 1) / blocks * Block::kWarpgroups;
      begin = static_cast<int32_t>(
          min(static_cast<int64_t>(share) * blockIdx.x, static_cast<int64_t>(total_)));
      end = min(begin + share, total_);
    }

    int32_t row_pages = first_pages_;
    int32_t before = 0;  // pages of the row tiles that come before the 32 looked at
    for (int32_t first = 0; before < end && first < args_.row_tiles; first += 32) {
      if (first > 0) row_pages = pages_of_tile(first + lane_);
      int32_t const pages = Order(row_pages).count();
      int32_t const sum = ptx::warp_inclusive_sum(pages);
      int32_t const tile_begin = before + sum - pages;
      int32_t const page_begin = max(begin - tile_begin, 0);
      int32_t const page_end = min(end - tile_begin, pages);
      uint32_t in_share = __ballot_sync(~0u, page_begin < page_end);
      before += __shfl_sync(~0u, sum, 31);
#pragma unroll 1
      while (in_share != 0) {
        int const i = __ffs(in_share) - 1;
        in_share &= in_share - 1;
        produce_piece(first + i, Order(__shfl_sync(~0u, row_pages, i)),
                      __shfl_sync(~0u, page_begin, i), __shfl_sync(~0u, page_end, i),
                      in_share == 0 && before >= end);
      }
    }
    if constexpr (Order::kTaken) take_pages();
    finish();
  }

  // In place of plan and run: one of `parts` equal parts of a row tile, which may have none.
  __device__ void run_part(int32_t row_tile, int32_t part, int32_t parts) {
    page_policy_ = ptx::evict_first_policy();
    Order const order(pages_of_tile(row_tile));
    int32_t const places = order.count();
    int32_t const begin = places * part / parts;
    int32_t const end = places * (part + 1) / parts;
    // A piece without stages would end the math warps before its queries are here.
    if (begin < end) produce_piece(row_tile, order, begin, end, true);
    finish();
  }

 private:
  __device__ __forceinline__ PageShares shares() const {
    return PageShares(static_cast<uint32_t>(total_), gridDim.x, args_.tickets);
  }
  __device__ __forceinline__ TileRows rows_of(int32_t row_tile) const {
    if constexpr (Order::kTilePerRequest) return TileRows{row_tile, 0, args_.lengths.next_n};
    return tile_rows<Tile>(args_, row_tile);
  }
  // 0 of tiles past the last.
  __device__ __forceinline__ int32_t pages_of_tile(int32_t row_tile) const {
    return row_tile < args_.row_tiles ? pages_of<Tile>(args_, rows_of(row_tile)) : 0;
  }

  // `last`: nothing else is in the block's share behind it.
  __device__ void produce_piece(int32_t row_tile, Order const& order, int32_t page_begin,
                                int32_t page_end, bool last) {
    TileRows const rows = rows_of(row_tile);
    bool takes = false;
    if constexpr (Order::kTaken) {
      if (order.count() >= shared_.taken_from) {
        page_begin = fixed_places(page_begin);
        page_end = fixed_places(page_end);
        if (page_begin == page_end) return Order::skip_part(args_, row_tile, lane_);
        takes = last;
      }
    }
    // The first page waits for its id alone: ids load before everything else, a group ahead.
    int32_t const* table = args_.block_table + rows.request * args_.block_table_stride;
    auto const id_at = [&](int32_t place) {
      return page_id(table, order.page(place), place < page_end ? order.pages : 0);
    };
    int32_t next_page = id_at(page_begin + lane_);
    int32_t const stages = (page_end - page_begin + Block::kWarpgroups - 1) / Block::kWarpgroups;
    ptx::mbarrier_wait(&shared_.query_empty[queries_.stage], queries_.phase ^ 1);
    if (ptx::elect_one()) {
      load_queries(args_, shared_, queries_.stage, rows.first_token, rows.request);
    }
    send_piece(rows, page_begin, page_end, stages, takes);
    for (int32_t group = page_begin; group < page_end; group += 32) {
      int32_t const lane_page = next_page;
      next_page = id_at(group + 32 + lane_);
      int32_t const group_pages = min(page_end - group, 32);
#pragma unroll 1
      for (int32_t i = 0; i < group_pages; i += Block::kWarpgroups) produce_stage(lane_page, i);
    }
  }

  // A row tile has enough places that some block's share ends within it: all that are not shared
  // out are taken here or there. A ticket is drawn while the page of the one before loads.
  __device__ __forceinline__ void take_pages() {
    PagedPiece const& sent = shared_.pieces[queries_.stage ^ 1];  // the block's last, if any
    static_assert(kQueryStages == 2);
    __syncwarp();
    if (sent.goes_on == 0) return;
    int32_t const row_tile = sent.first_row;
    Order const order(pages_of_tile(row_tile));
    int32_t const request = rows_of(row_tile).request;
    int32_t const* const table = args_.block_table + request * args_.block_table_stride;
    int32_t place = -1;
#pragma unroll 1
    while (true) {
      int32_t next = 0;
      if (lane_ == 0) next = draw_ticket(&args_.tickets.words[row_tile], args_.tickets.tag);
      if (place >= 0) {
        int32_t const page = place < order.count() ? order.page(place) : -1;
        produce_stage(page >= 0 ? page_id(table, page, order.pages) : -1, 0, 2 * page);
        if (page < 0) return;
      }
      place = fixed_places(order.count()) + __shfl_sync(~0u, next, 0);
    }
  }

  // This lane's part of the row tiles from the 33rd on. Loads of four lengths overlap, as long as
  // no division lies between them.
  __device__ __forceinline__ int32_t places_of_rest() const {
    constexpr int kGroup = 4;
    int32_t total = 0;
#pragma unroll 1
    for (int32_t first = 32; first < args_.row_tiles; first += 32 * kGroup) {
      int32_t pages[kGroup];
      if (Order::kTilePerRequest || args_.tiles_per_request == 1) {
#pragma unroll
        for (int i = 0; i < kGroup; ++i) {
          int32_t const request = first + 32 * i + lane_;
          TileRows const rows{min(request, args_.row_tiles - 1), 0, args_.lengths.next_n};
          pages[i] = pages_of<Tile>(args_, rows);
          if (request >= args_.row_tiles) pages[i] = 0;
        }
      } else {
#pragma unroll
        for (int i = 0; i < kGroup; ++i) pages[i] = pages_of_tile(first + 32 * i + lane_);
      }
#pragma unroll
      for (int i = 0; i < kGroup; ++i) total += Order(pages[i]).count();
    }
    return total;
  }

  // A call's only row tile: a block takes every gridDim.x-th stage, so that page ids load with the
  // lengths, and pages at once. Its queries are under way; the math warps hear of the piece when
  // the first pages are, too.
  __device__ __forceinline__ int32_t place_in_turn(int32_t index) const {
    int32_t const stage = index / Block::kWarpgroups * static_cast<int32_t>(gridDim.x);
    return (stage + static_cast<int32_t>(blockIdx.x)) * Block::kWarpgroups +
           index % Block::kWarpgroups;
  }
  __device__ void run_in_turn() {
    constexpr int32_t kGroupStages = 32 / Block::kWarpgroups;
    static_assert(Block::kKeyStages <= kGroupStages);
    int32_t const blocks = static_cast<int32_t>(gridDim.x);
    int32_t const all_stages = (total_ + Block::kWarpgroups - 1) / Block::kWarpgroups;
    int32_t lane_page = place_in_turn(lane_) < total_ ? first_ids_ : -1;
    int32_t s = 0;
    int32_t stage = static_cast<int32_t>(blockIdx.x);  // of the row tile
#pragma unroll 1
    for (; s < Block::kKeyStages && stage < all_stages; ++s, stage += blocks) {
      produce_stage(lane_page, s * Block::kWarpgroups);
    }
    if (s > 0) {
      int32_t const left = stage < all_stages ? (all_stages - 1 - stage) / blocks + 1 : 0;
      TileRows const rows{0, 0, args_.lengths.next_n};
      send_piece(rows, place_in_turn(0), total_, s + left, false);
    } else {
      ptx::mbarrier_wait(&shared_.query_full[0], 0);
    }
#pragma unroll 1
    for (; stage < all_stages; ++s, stage += blocks) {
      if (s % kGroupStages == 0) {
        lane_page =
            page_id(args_.block_table, place_in_turn(s * Block::kWarpgroups + lane_), total_);
      }
      produce_stage(lane_page, s % kGroupStages * Block::kWarpgroups);
    }
    finish();
  }

  __device__ __forceinline__ static int32_t page_id(int32_t const* table, int32_t page,
                                                    int32_t pages) {
    return page < pages ? __ldg(table + page) : -1;
  }
  __device__ __forceinline__ int32_t max_pages() const {
    return (args_.lengths.max_length + kPageKeys - 1) / kPageKeys;
  }

  __device__ void send_piece(TileRows const& rows, int32_t page_begin, int32_t page_end,
                             int32_t stages, bool goes_on) {
    PagedPiece& sent = shared_.pieces[queries_.stage];
    if (lane_ == 0) {
      sent.stages = stages;
      sent.first_row = rows.request * args_.lengths.next_n + rows.first_token;
      sent.rows = rows.tokens;
      sent.scan_begin = page_begin * kPageKeys;
      sent.store_end = min(page_end * kPageKeys, args_.max_context_len);
      if constexpr (Order::kTaken) sent.goes_on = goes_on ? 1 : 0;
    }
    if constexpr (Block::kWeightsStaged) {
      int64_t const row =
          static_cast<int64_t>(rows.request) * args_.lengths.next_n + rows.first_token;
      copy_weights<Tile>(args_.weights, args_.weights_row_stride, row, rows.tokens,
                         shared_.weights[queries_.stage], lane_);
      ptx::cp_async_mbarrier_arrive_noinc(&shared_.piece_full[queries_.stage]);
    }
    // No key for a row past the last, so that no stage counts as seen whole.
    if (lane_ < Tile::kQueries) {
      sent.row_lengths[lane_] =
          lane_ < rows.tokens ? args_.lengths.of(rows.request, rows.first_token + lane_) : 0;
    }
    ptx::mbarrier_arrive(&shared_.piece_full[queries_.stage]);
    queries_.advance();
  }

  // The pages that lanes `first` on hold. The page after an odd end reads as -1 from its lane:
  // absent, and not stored either. `taken`: what is added to whether a page is present.
  __device__ __forceinline__ void produce_stage(int32_t lane_page, int32_t first,
                                                int32_t taken = 0) {
    int32_t pages[Block::kWarpgroups];
    int32_t count = 0;
#pragma unroll
    for (int i = 0; i < Block::kWarpgroups; ++i) {
      pages[i] = __shfl_sync(~0u, lane_page, first + i);
      if (present(pages[i])) ++count;
    }
    uint32_t const stage = keys_.stage;
    ptx::mbarrier_wait(&shared_.key_empty[stage], keys_.phase ^ 1);
    if (ptx::elect_one()) {
#pragma unroll
      for (int i = 0; i < Block::kWarpgroups; ++i) {
        shared_.page_present[stage][i] = present(pages[i]) + taken;
      }
      ptx::mbarrier_arrive_expect_tx(&shared_.key_full[stage], count * kPageBytes);
#pragma unroll
      for (int i = 0; i < Block::kWarpgroups; ++i) {
        if (present(pages[i])) load_page(stage, i, pages[i]);
      }
    }
    if (kPushes && --pushing_ == 0) page_policy_ = ptx::evict_first_policy();
    keys_.advance(Order::kTaken ? shared_.used_stages : Block::kKeyStages);
  }

  __device__ __forceinline__ bool present(int32_t page) const {
    return page >= 0 && page < args_.num_pages;
  }

  __device__ __forceinline__ void load_page(uint32_t stage, int place, int32_t page) {
    uint64_t* full = &shared_.key_full[stage];
    ptx::tma_load_3d(shared_.keys[stage] + place * kPageKeys * kHeadDim, &args_.key_map, full, 0, 0,
                     page, page_policy_);
    ptx::bulk_copy(shared_.scales[stage] + place * kPageKeys,
                   args_.index_cache + page * args_.page_stride_bytes + kPageScalesOffset,
                   kPageKeys * sizeof(float), full, page_policy_);
  }

  __device__ void finish() {
    ptx::mbarrier_wait(&shared_.query_empty[queries_.stage], queries_.phase ^ 1);
    if (lane_ == 0) {
      PagedPiece& last = shared_.pieces[queries_.stage];
      last.stages = 0;
      if constexpr (Order::kFills) {
        int32_t const columns = (args_.max_context_len + kPageKeys - 1) / kPageKeys;
        last.rows = total_ < args_.row_tiles * columns ? 1 : 0;
      }
    }
    if (Block::kWeightsStaged) {
      ptx::cp_async_mbarrier_arrive_noinc(&shared_.piece_full[queries_.stage]);
    }
    ptx::mbarrier_arrive(&shared_.piece_full[queries_.stage]);
    ptx::launch_dependent_kernels();
  }

  Args const& args_;
  PagedStorage<Tile>& shared_;
  int const lane_;
  int32_t first_ids_ = -1;   // of the lane's page (kOnly)
  int32_t first_pages_ = 0;  // of row tile `lane`
  int32_t total_ = 0;        // pages of all row tiles
  int32_t pushing_ = 0;      // stages left whose pages push
  uint64_t page_policy_ = 0;
  RingPosition<kQueryStages> queries_;
  RingPosition<Block::kKeyStages> keys_;
};

}  // namespace dsa_ops::indexer
