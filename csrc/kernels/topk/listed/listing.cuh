// paged_indexer_logits for a selection, one or two rows per request: logits are not stored; a block
// lists those of its part of a row that may be among the row's best.
//
// Pages, queries and barriers are those of sm90_paged_indexer_logits_kernel, but for the order of
// the pages. The first pages of a part, each of another stratum of the row, are its sample: their
// logits stay in shared memory until the math warps have found a gate from them. From then on a
// logit that passes is listed at once. Behind its share a block takes pages of its last row as they
// come (README.md). The math warps meet at a named barrier. Two rows of a request share the pages;
// each has a sample, a gate and a list of its own, and a lane one of the rows.
#pragma once
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "kernels/indexer/sm90_paged.cuh"
#include "kernels/topk/listed/args.h"
#include "kernels/topk/listed/page_order.cuh"
#include "kernels/topk/listed/part_gate.cuh"

namespace dsa_ops::topk_sm90::listed {

template <class Tile>
struct alignas(1024) ListingStorage : indexer::PagedStorage<Tile> {
  GateStorage gates[Tile::kQueries];
  uint32_t num_listed[Tile::kQueries];
};

// A part's list; by the math lanes. Candidates of the sample, and those for which a lane has no
// more room, take a place of the list at once. Others wait in shared memory, where the sample was,
// in the lane's own column.
class PartList {
 public:
  static constexpr uint32_t kColumn = kSampleKeys * sizeof(float) / sizeof(Candidate) / 64;

  __device__ __forceinline__ PartList(Candidate* list, GateStorage& shared, uint32_t* count,
                                      int lane_key)
      : list_(list),
        count_(count),
        column_(reinterpret_cast<Candidate*>(shared.sample) + lane_key) {}

  __device__ __forceinline__ void append(float logit, int32_t position) {
    store(atomicAdd(count_, 1u), candidate(logit, position));
  }
  __device__ __forceinline__ void append_later(float logit, int32_t position) {
    if (waiting_ < kColumn) {
      column_[64 * waiting_++] = candidate(logit, position);
    } else {
      append(logit, position);
    }
  }
  // The lane's column to the list.
  __device__ __forceinline__ void flush() {
    uint32_t const base = atomicAdd(count_, waiting_);
    for (uint32_t i = 0; i < waiting_; ++i) store(base + i, column_[64 * i]);
  }

 private:
  static __device__ __forceinline__ Candidate candidate(float logit, int32_t position) {
    return Candidate{__float_as_uint(logit), static_cast<uint32_t>(position)};
  }
  __device__ __forceinline__ void store(uint32_t place, Candidate const& candidate) {
    if (place < kPartCandidates) list_[place] = candidate;
  }

  Candidate* list_;
  uint32_t* count_;
  Candidate* column_;
  uint32_t waiting_ = 0;
};

// Which logits of a row are listed.
struct ListRule {
  float gate;
  int32_t zero_end;

  __device__ __forceinline__ bool operator()(float logit, int32_t n) const {
    return logit >= gate || (logit == 0.f && n < zero_end);
  }
};

// Whether the next stage has a page that is taken. If not, it is passed.
template <class Tile, class Ring>
__device__ __forceinline__ bool has_page(ListingStorage<Tile>& shared, Ring& keys,
                                         uint32_t used_stages) {
  ptx::mbarrier_wait(&shared.key_full[keys.stage], keys.phase);
  if (shared.page_present[keys.stage][0] >= 0) return true;
  ptx::mbarrier_arrive(&shared.key_empty[keys.stage]);
  keys.advance(used_stages);
  return false;
}

template <class Tile>
__device__ void score_and_list(ListingArgs const& args, ListingStorage<Tile>& shared, int warp,
                               int lane) {
  using Block = indexer::PagedBlock<Tile>;
  using indexer::kPageKeys;
  constexpr int kRows = Tile::kQueries;
  static_assert(kRows <= 2 && Block::kWarpgroups == 1 && !Block::kWeightsStaged);
  indexer::RingPosition<indexer::kQueryStages> queries;
  indexer::RingPosition<Block::kKeyStages> keys;
  indexer::MathRegisters<Tile> registers;
  uint64_t const first_keys = k_major_descriptor(ptx::shared_address(shared.keys));
  int const lane_key = indexer::key_of_lane(warp, lane);
  int const own = kRows == 2 ? indexer::query_of_lane(lane) : 0;  // of the tile's rows
  bool const takes = kRows == 2 || indexer::query_of_lane(lane) == 0;
  int32_t const turn = static_cast<int32_t>(blockIdx.x * Block::kPerSm / gridDim.x);
  int32_t const sample_pages = kSamplePages - turn * kSampleSteps;

  uint32_t const used_stages = kRows == 1 ? shared.used_stages : Block::kKeyStages;
  for (;;) {
    ptx::mbarrier_wait(&shared.piece_full[queries.stage], queries.phase);
    indexer::PagedPiece const& piece = shared.pieces[queries.stage];
    int32_t const stages = piece.stages;
    if (stages == 0) return;
    bool const goes_on = kRows == 1 && piece.goes_on != 0;
    int32_t const row = piece.first_row;
    int32_t const length = piece.row_lengths[own];
    int32_t const longest = max(piece.row_lengths[0], piece.row_lengths[kRows - 1]);
    int32_t const first_place = piece.scan_begin / kPageKeys;
    float const* weights = args.weights + row * args.weights_row_stride;
    indexer::load_weights<Tile>(registers.weights[0], lane, [&](int query, int head) {
      float const* at = weights + query * args.weights_row_stride + head;
      return float2{indexer::halve(__ldg(at)), indexer::halve(__ldg(at + 1))};
    });
    uint64_t const query_tile = indexer::uniform_descriptor(
        k_major_descriptor(ptx::shared_address(shared.queries[queries.stage])));
    ptx::mbarrier_wait(&shared.query_full[queries.stage], queries.phase);

    PagesByStrata const order(pages_of_length(longest));
    auto const first_key = [&](int32_t stage) {
      return order.page(first_place + stage) * kPageKeys;
    };
    // Scores the next stage and hands `take` its logits of keys that the row has.
    auto const score = [&](auto const& first_key_of, auto const& take) {
      ptx::mbarrier_wait(&shared.key_full[keys.stage], keys.phase);
      float const scale = shared.scales[keys.stage][lane_key];
      int32_t const page = shared.page_present[keys.stage][0];
      indexer::score_keys<Tile>(
          registers, indexer::descriptor_at(first_keys, keys.stage * Block::kStageBytes),
          query_tile, scale, lane, [&] { ptx::mbarrier_arrive(&shared.key_empty[keys.stage]); },
          [&](int, float logit) {
            int32_t const n = first_key_of(page) + lane_key;
            bool const exists = takes && n < length;
            logit = page & 1 ? logit : -INFINITY;
            take(logit, n, exists);
          });
      keys.advance(used_stages);
    };

    int64_t const first_part = part_index(row / kRows, blockIdx.x, kRows, 0);
    auto const list_of = [&](int i) {
      return PartList(args.lists + (first_part + i) * kPartCandidates, shared.gates[i],
                      &shared.num_listed[i], lane_key);
    };
    PartList list = list_of(own);
    int32_t const sampled = min(stages, sample_pages);
    GateStorage& own_gate = shared.gates[own];
#pragma unroll 1
    for (int32_t s = 0; s < sampled; ++s) {
      score([&](int32_t) { return first_key(s); },
            [&](float logit, int32_t, bool exists) {
              if (exists) PartGate(own_gate).count(logit);
              if (takes) own_gate.sample[s * kPageKeys + lane_key] = exists ? logit : -INFINITY;
            });
    }
    ListRule passes;
    ListedPart headers[kRows];
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      PartGate found(shared.gates[i]);
      found.find(sampled * kPageKeys, longest, args.top_k);
      headers[i] = ListedPart{0, found.gate, found.high, found.zero_end};
      ListRule const rule{logit_of(found.gate), found.zero_end};
      if (i == own) passes = rule;
      PartList from_sample = list_of(i);
      for (int32_t j = threadIdx.x; j < sampled * kPageKeys; j += kLanes) {
        float const logit = shared.gates[i].sample[j];
        int32_t const n = first_key(j / kPageKeys) + j % kPageKeys;
        if (rule(logit, n)) from_sample.append(logit, n);
      }
    }
    PartGate(own_gate).meet();
    auto const take = [&](float logit, int32_t n, bool exists) {
      if (exists && passes(logit, n)) list.append_later(logit, n);
    };
#pragma unroll 1
    for (int32_t s = sampled; s < stages; ++s) score([&](int32_t) { return first_key(s); }, take);
    if (goes_on) {
#pragma unroll 1
      while (has_page<Tile>(shared, keys, used_stages))
        score([](int32_t page) { return (page >> 1) * kPageKeys; }, take);
    }
    ptx::mbarrier_arrive(&shared.query_empty[queries.stage]);
    queries.advance();
    list.flush();
    PartGate(own_gate).meet();
    if (threadIdx.x == 0) {
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        headers[i].count = shared.num_listed[i];
        args.parts[first_part + i] = headers[i];
        shared.num_listed[i] = 0;
      }
    }
  }
}

template <int kHeads, int kRows>
__global__ void __launch_bounds__(indexer::PagedBlock<ListingTile<kHeads, kRows>>::kThreads,
                                  indexer::PagedBlock<ListingTile<kHeads, kRows>>::kPerSm)
    sm90_paged_indexer_lists_kernel(__grid_constant__ ListingArgs const args) {
  using Tile = ListingTile<kHeads, kRows>;
  using Block = indexer::PagedBlock<Tile>;
  extern __shared__ __align__(1024) uint8_t shared_memory[];
  auto& shared = *reinterpret_cast<ListingStorage<Tile>*>(shared_memory);
  int const warp = indexer::uniform(static_cast<int32_t>(threadIdx.x) / 32);
  int const lane = static_cast<int>(threadIdx.x) % 32;

  using Order = std::conditional_t<kRows == 1, PagesTaken, PagesByStrata>;
  indexer::PagedProducer<Tile, Order> producer(args, shared, lane);
  if (warp == Block::kProducerWarp) {
    producer.plan();
  } else if (warp == 0) {
    if (lane == 0) {
      for (uint32_t& count : shared.num_listed) count = 0;
      for (indexer::PagedPiece& piece : shared.pieces) piece.goes_on = 0;
      indexer::init_paged_barriers(static_cast<indexer::PagedStorage<Tile>&>(shared));
    }
  } else if (warp < Block::kMathWarps) {
    constexpr int kPrefetchThreads = (Block::kMathWarps - 1) * 32;
    indexer::prefetch_block_tables(args, static_cast<int32_t>(blockIdx.x) * kPrefetchThreads +
                                             static_cast<int32_t>(threadIdx.x) - 32);
  } else {
    constexpr int kFirst = 32 * (Block::kProducerWarp + 1);
    for (int i = static_cast<int>(threadIdx.x) - kFirst; i < kGateBins / 2;
         i += Block::kThreads - kFirst) {
      for (GateStorage& gate : shared.gates) gate.bins[i] = 0;
    }
  }
  __syncthreads();
  ptx::wait_for_prior_kernels();
  // Selecting blocks take a multiprocessor each: they start where scoring ends first.
  ptx::launch_dependent_kernels();

  if (warp < Block::kMathWarps) {
    ptx::setmaxnreg_inc<Block::kMathRegisters>();
    score_and_list<Tile>(args, shared, warp, lane);
  } else {
    ptx::setmaxnreg_dec<indexer::kProducerRegisters>();
    if (warp == Block::kProducerWarp) producer.run();
  }
}

}  // namespace dsa_ops::topk_sm90::listed
