// paged_indexer_logits: row (b, j) of a request's next_n tokens scores the first length(b, j) keys
// of the pages block_table[b, :]; every other column is -inf.
//
// A row tile is 1, 2 or 4 rows of a request. The pages that the row tiles need are laid end to end
// and cut into equal shares, one per block: a share is a few pieces (row tile, range of pages), and
// one long request keeps every block busy. A stage is a page for each math warpgroup.
//
// A short call is little more than the way to its first page: lengths, share, block table, page.
// The producer reads the lengths before the barriers exist, while other warps prefetch the block
// tables. The only row tile of a call (Tile::kOnly) goes to the blocks stage by stage in turn: then
// page ids need not wait for the length, nor the queries for anything.
//
//   warps 0-3   math warpgroup: a page of each stage, wgmma and epilogue in registers (256 columns:
//               two of them, warps 0-7; the others follow)
//   warp 4      producer: finds the block's share, feeds queries and pages by TMA, scales by bulk
//               copy; a page that is not in the cache is never read, only reported as absent.
//               Pages are read once: they leave the L2 first, before the logits
//   warps 5-7   lend registers to warps 0-3; of 128 columns there are none
//
// -inf from the end of a row tile's pages to max_context_len: by the math warps behind their last
// page, as reading goes slower beside it; by warps 5-7 of a call's only tile, whose way to the end
// would be longer, and of 256 columns, which wait for products.
//
// Rings and barriers:
//   piece_full[2]   32 arrivals (the producer's lanes: each has described a part of the piece), of
//                   256 columns 64 (and copied weights); the math warps wait, then load weights
//   query_full[2]   1 arrival (producer, with the bytes of the query tile); the math warps wait
//   query_empty[2]  an arrival of every math lane, after a piece's last stage; the producer waits
//   key_full[]      1 arrival (producer, with the bytes of the pages present); the math warps wait
//   key_empty[]     an arrival of every math lane (they read scales); the producer waits
// The producer ends with a piece of 0 stages, which says whether there is anything to fill.
// Everything it loads is waited for, so no copy is in flight when the block exits.
#pragma once
#include <cmath>
#include <cstdint>

#include "device/ptx/copy.cuh"
#include "device/ptx/grid.cuh"
#include "device/ptx/mbarrier.cuh"
#include "device/ptx/warp.cuh"
#include "kernels/indexer/args.h"
#include "kernels/indexer/paged_producer.cuh"
#include "kernels/indexer/scoring.cuh"

namespace dsa_ops::indexer {

// A line of 32 page ids per thread of the grid.
__device__ __forceinline__ void prefetch_block_tables(PagedArgs const& args, int32_t thread) {
  constexpr int32_t kLinePages = 128 / sizeof(int32_t);
  constexpr int32_t kLineKeys = kLinePages * kPageKeys;
  int32_t const lines = (args.lengths.max_length + kLineKeys - 1) / kLineKeys;
  if (lines == 0) return;
  int32_t const request = thread / lines;
  if (request < args.row_tiles / args.tiles_per_request) {
    ptx::prefetch_l2(args.block_table + request * args.block_table_stride +
                     thread % lines * kLinePages);
  }
}

// Warps take (row tile, 2048 columns) in turn; the math warpgroups store every column before the
// end of the row tile's pages.
template <class Tile>
__device__ void fill_paged(PagedArgs const& args, int filler_warp, int lane) {
  constexpr int32_t kColumns = 2048;
  int32_t const parts = (args.max_context_len + kColumns - 1) / kColumns;
  int64_t const units = static_cast<int64_t>(args.row_tiles) * parts;
  int64_t const step = static_cast<int64_t>(gridDim.x) * PagedBlock<Tile>::kFillerWarps;
  for (int64_t unit = filler_warp * gridDim.x + blockIdx.x; unit < units; unit += step) {
    int32_t const row_tile = static_cast<int32_t>(unit / parts);
    int32_t const part = static_cast<int32_t>(unit % parts);
    int32_t const begin = max(pages_of<Tile>(args, row_tile) * kPageKeys, part * kColumns);
    int32_t const end = min(part * kColumns + kColumns, args.max_context_len);
    TileRows const rows = tile_rows<Tile>(args, row_tile);
    int64_t const first_row =
        static_cast<int64_t>(rows.request) * args.lengths.next_n + rows.first_token;
    for (int32_t j = 0; j < rows.tokens; ++j) {
      float* row = args.logits + (first_row + j) * args.logits_row_stride;
      for (int32_t n = begin + lane; n < end; n += 32) row[n] = -INFINITY;
    }
  }
}

// Returns whether any row tile has columns past its pages.
template <class Tile>
__device__ bool score_paged(PagedArgs const& args, PagedStorage<Tile>& shared, int warp, int lane) {
  using Block = PagedBlock<Tile>;
  constexpr int kUnroll = Tile::kColumns > 128 ? 4 : 1;
  RingPosition<kQueryStages> queries;
  RingPosition<Block::kKeyStages> keys;
  MathRegisters<Tile> registers;
  int const warpgroup = warp / 4;
  uint64_t const first_keys =
      k_major_descriptor(ptx::shared_address(shared.keys) + warpgroup * kPageKeys * kHeadDim);
  int const lane_key = key_of_lane(warp, lane);
  int const lane_query = query_of_lane(lane);

  for (;;) {
    ptx::mbarrier_wait(&shared.piece_full[queries.stage], queries.phase);
    PagedPiece const& piece = shared.pieces[queries.stage];
    int32_t const stages = piece.stages;
    if (stages == 0) return piece.rows != 0;
    int32_t const first_row = piece.first_row;
    int32_t const rows = piece.rows;
    int32_t const store_end = piece.store_end;
    int32_t whole_end = store_end;
    int32_t lengths[(Tile::kQueries + 1) / 2];  // of the rows 2 i + lane_query
#pragma unroll
    for (int i = 0; i < Tile::kQueries; ++i) whole_end = min(whole_end, piece.row_lengths[i]);
#pragma unroll
    for (int i = 0; i < (Tile::kQueries + 1) / 2; ++i) {
      lengths[i] = piece.row_lengths[2 * i + lane_query];
    }
    float const* tile_weights = args.weights + first_row * args.weights_row_stride;
    load_weights<Tile>(registers.weights[0], lane, [&](int query, int head) {
      if constexpr (Block::kWeightsStaged) {
        float const* at = shared.weights[queries.stage] + query * Tile::kHeads + head;
        float2 const pair = *reinterpret_cast<float2 const*>(at);
        return float2{halve(pair.x), halve(pair.y)};
      }
      float const* at = tile_weights + query * args.weights_row_stride + head;
      return query < rows ? float2{halve(__ldg(at)), halve(__ldg(at + 1))} : float2{0.f, 0.f};
    });
    uint64_t const query_tile =
        uniform_descriptor(k_major_descriptor(ptx::shared_address(shared.queries[queries.stage])));
    int32_t n = piece.scan_begin + lane_key;
    float* first_out = args.logits + (first_row + lane_query) * args.logits_row_stride + n;
    int32_t const step = Block::kStageKeys * (Tile::kOnly ? static_cast<int32_t>(gridDim.x) : 1);
    int32_t const first_end = piece.scan_begin + Block::kStageKeys;
    int32_t const whole = uniform(max(whole_end - first_end + step, 0) / step);
    ptx::mbarrier_wait(&shared.query_full[queries.stage], queries.phase);

    // Scores the next page and hands the logits to `store(query)`.
    auto const score = [&](auto const& store) {
      ptx::mbarrier_wait(&shared.key_full[keys.stage], keys.phase);
      float const scale = shared.scales[keys.stage][lane_key];
      bool const present = shared.page_present[keys.stage][warpgroup] != 0;
      score_keys<Tile>(
          registers, descriptor_at(first_keys, keys.stage * Block::kStageBytes), query_tile, scale,
          lane, [&] { ptx::mbarrier_arrive(&shared.key_empty[keys.stage]); },
          [&](int query, float logit) { store(query, present ? logit : -INFINITY); });
      keys.advance();
      n += step;
      first_out += step;
    };

    // Stages that all rows see whole need no test per logit.
#pragma unroll kUnroll
    for (int32_t s = 0; s < whole; ++s) {
      float* out = first_out;
      score([&](int, float logit) {
        if (Tile::kQueries > 1 || lane_query == 0) *out = logit;
        out += 2 * args.logits_row_stride;
      });
    }
#pragma unroll 1
    for (int32_t s = whole; s < stages; ++s) {
      float* out = first_out;
      score([&](int query, float logit) {
        if (n >= lengths[query / 2]) logit = -INFINITY;
        if (n < store_end && query + lane_query < rows) *out = logit;
        out += 2 * args.logits_row_stride;
      });
    }
    ptx::mbarrier_arrive(&shared.query_empty[queries.stage]);
    queries.advance();
  }
}

template <class Tile>
__device__ __forceinline__ void init_paged_barriers(PagedStorage<Tile>& shared) {
  constexpr uint32_t kMathLanes = 32 * PagedBlock<Tile>::kMathWarps;
  for (int i = 0; i < kQueryStages; ++i) {
    ptx::mbarrier_init(&shared.piece_full[i], PagedBlock<Tile>::kWeightsStaged ? 64 : 32);
    ptx::mbarrier_init(&shared.query_full[i], 1);
    ptx::mbarrier_init(&shared.query_empty[i], kMathLanes);
  }
  for (int i = 0; i < PagedBlock<Tile>::kKeyStages; ++i) {
    ptx::mbarrier_init(&shared.key_full[i], 1);
    ptx::mbarrier_init(&shared.key_empty[i], kMathLanes);
  }
  ptx::fence_mbarrier_init();
}

// Before the memory is used for anything else, by one thread.
template <class Tile>
__device__ __forceinline__ void invalidate_paged_barriers(PagedStorage<Tile>& shared) {
  for (int i = 0; i < kQueryStages; ++i) {
    ptx::mbarrier_invalidate(&shared.piece_full[i]);
    ptx::mbarrier_invalidate(&shared.query_full[i]);
    ptx::mbarrier_invalidate(&shared.query_empty[i]);
  }
  for (int i = 0; i < PagedBlock<Tile>::kKeyStages; ++i) {
    ptx::mbarrier_invalidate(&shared.key_full[i]);
    ptx::mbarrier_invalidate(&shared.key_empty[i]);
  }
}

template <int kHeads, int kRows, bool kOnly>
__global__ void __launch_bounds__(PagedBlock<PagedTile<kHeads, kRows, kOnly>>::kThreads,
                                  PagedBlock<PagedTile<kHeads, kRows, kOnly>>::kPerSm)
    sm90_paged_indexer_logits_kernel(__grid_constant__ PagedArgs const args) {
  using Tile = PagedTile<kHeads, kRows, kOnly>;
  using Block = PagedBlock<Tile>;
  extern __shared__ __align__(1024) uint8_t shared_memory[];
  auto& shared = *reinterpret_cast<PagedStorage<Tile>*>(shared_memory);
  int const warp = uniform(static_cast<int32_t>(threadIdx.x) / 32);
  int const lane = static_cast<int>(threadIdx.x) % 32;

  PagedProducer<Tile> producer(args, shared, lane);
  if (warp == Block::kProducerWarp) {
    producer.plan();
  } else if (warp == 0) {
    if (ptx::elect_one()) {
      init_paged_barriers(shared);
      // The queries of a call's only row tile come before all pages.
      if constexpr (Tile::kOnly) {
        ptx::wait_for_prior_kernels();
        load_queries(args, shared, 0, 0, 0);
      }
    }
  } else if (warp < Block::kMathWarps) {
    constexpr int kPrefetchThreads = (Block::kMathWarps - 1) * 32;
    prefetch_block_tables(args, static_cast<int32_t>(blockIdx.x) * kPrefetchThreads +
                                    static_cast<int32_t>(threadIdx.x) - 32);
  }
  __syncthreads();
  ptx::wait_for_prior_kernels();

  if (warp < Block::kMathWarps) {
    if constexpr (Block::kLends) ptx::setmaxnreg_inc<Block::kMathRegisters>();
    bool const fills = score_paged<Tile>(args, shared, warp, lane) && args.fill;
    if (!Block::kFillers && fills) fill_paged<Tile>(args, warp - Block::kFillerWarp, lane);
  } else {
    if constexpr (Block::kLends) ptx::setmaxnreg_dec<kProducerRegisters>();
    if (warp == Block::kProducerWarp) {
      producer.run();
    } else if (Block::kFillers && args.fill) {
      fill_paged<Tile>(args, warp - Block::kFillerWarp, lane);
    }
  }
}

}  // namespace dsa_ops::indexer
