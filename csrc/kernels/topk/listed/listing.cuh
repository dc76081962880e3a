// paged_indexer_logits for a selection, one row per request: logits are not stored; a block lists
// those of its part of a row that may be among the row's best.
//
// Pages, queries and barriers are those of sm90_paged_indexer_logits_kernel, but for the order of
// the pages. The first pages of a part, each of another stratum of the row, are its sample: their
// logits stay in shared memory until the math warps have found a gate from them. From then on a
// logit that passes is listed at once. The math warps meet at a named barrier.
#pragma once
#include <cmath>
#include <cstdint>

#include "kernels/indexer/sm90_paged.cuh"
#include "kernels/topk/listed/args.h"
#include "kernels/topk/listed/page_order.cuh"
#include "kernels/topk/listed/part_gate.cuh"

namespace dsa_ops::topk_sm90::listed {

template <class Tile>
struct alignas(1024) ListingStorage : indexer::PagedStorage<Tile> {
  GateStorage gate;
  uint32_t num_listed;
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
  // All lanes' columns to the list.
  __device__ __forceinline__ void flush(int lane) {
    uint32_t const inclusive = ptx::warp_inclusive_sum(waiting_);
    uint32_t base = 0;
    if (lane == 31) base = atomicAdd(count_, inclusive);
    base = __shfl_sync(~0u, base, 31) + inclusive - waiting_;
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

template <class Tile>
__device__ void score_and_list(ListingArgs const& args, ListingStorage<Tile>& shared, int warp,
                               int lane) {
  using Block = indexer::PagedBlock<Tile>;
  using indexer::kPageKeys;
  static_assert(Tile::kQueries == 1 && Block::kWarpgroups == 1 && !Block::kWeightsStaged);
  indexer::RingPosition<indexer::kQueryStages> queries;
  indexer::RingPosition<Block::kKeyStages> keys;
  indexer::MathRegisters<Tile> registers;
  uint64_t const first_keys = k_major_descriptor(ptx::shared_address(shared.keys));
  int const lane_key = indexer::key_of_lane(warp, lane);
  bool const takes = indexer::query_of_lane(lane) == 0;
  PartGate part_gate(shared.gate);
  int32_t const turn = static_cast<int32_t>(blockIdx.x * Block::kPerSm / gridDim.x);
  int32_t const sample_pages = kSamplePages - turn * kSampleSteps;

  for (;;) {
    ptx::mbarrier_wait(&shared.piece_full[queries.stage], queries.phase);
    indexer::PagedPiece const& piece = shared.pieces[queries.stage];
    int32_t const stages = piece.stages;
    if (stages == 0) return;
    int32_t const row = piece.first_row;
    int32_t const length = piece.row_lengths[0];
    int32_t const first_place = piece.scan_begin / kPageKeys;
    float const* weights = args.weights + row * args.weights_row_stride;
    indexer::load_weights<Tile>(registers.weights[0], lane, [&](int, int head) {
      return float2{indexer::halve(__ldg(weights + head)),
                    indexer::halve(__ldg(weights + head + 1))};
    });
    uint64_t const query_tile = indexer::uniform_descriptor(
        k_major_descriptor(ptx::shared_address(shared.queries[queries.stage])));
    ptx::mbarrier_wait(&shared.query_full[queries.stage], queries.phase);

    PagesByStrata const order(pages_of_length(length));
    auto const first_key = [&](int32_t stage) {
      return order.page(first_place + stage) * kPageKeys;
    };
    // Scores a stage and hands `take` its logits of keys that the row has.
    auto const score = [&](int32_t stage, auto const& take) {
      ptx::mbarrier_wait(&shared.key_full[keys.stage], keys.phase);
      float const scale = shared.scales[keys.stage][lane_key];
      bool const present = shared.page_present[keys.stage][0] != 0;
      indexer::score_keys<Tile>(
          registers, indexer::descriptor_at(first_keys, keys.stage * Block::kStageBytes),
          query_tile, scale, lane, [&] { ptx::mbarrier_arrive(&shared.key_empty[keys.stage]); },
          [&](int, float logit) {
            int32_t const n = first_key(stage) + lane_key;
            bool const exists = takes && n < length;
            logit = present ? logit : -INFINITY;
            take(logit, n, exists);
          });
      keys.advance();
    };

    int64_t const part = part_index(row, blockIdx.x);
    PartList list(args.lists + part * kPartCandidates, shared.gate, &shared.num_listed, lane_key);
    int32_t const sampled = min(stages, sample_pages);
#pragma unroll 1
    for (int32_t s = 0; s < sampled; ++s) {
      score(s, [&](float logit, int32_t, bool exists) {
        if (exists) part_gate.count(logit);
        if (takes) shared.gate.sample[s * kPageKeys + lane_key] = exists ? logit : -INFINITY;
      });
    }
    part_gate.find(sampled * kPageKeys, length, args.top_k);
    float const gate = logit_of(part_gate.gate);
    int32_t const zero_end = part_gate.zero_end;
    auto const passes = [&](float logit, int32_t n) {
      return logit >= gate || (logit == 0.f && n < zero_end);
    };
    for (int32_t i = threadIdx.x; i < sampled * kPageKeys; i += kLanes) {
      float const logit = shared.gate.sample[i];
      int32_t const n = first_key(i / kPageKeys) + i % kPageKeys;
      if (passes(logit, n)) list.append(logit, n);
    }
    part_gate.meet();
#pragma unroll 1
    for (int32_t s = sampled; s < stages; ++s) {
      score(s, [&](float logit, int32_t n, bool exists) {
        if (exists && passes(logit, n)) list.append_later(logit, n);
      });
    }
    ptx::mbarrier_arrive(&shared.query_empty[queries.stage]);
    queries.advance();
    list.flush(lane);
    part_gate.meet();
    if (threadIdx.x == 0) {
      args.parts[part] = ListedPart{shared.num_listed, part_gate.gate, part_gate.high, zero_end};
      shared.num_listed = 0;
    }
  }
}

template <int kHeads>
__global__ void __launch_bounds__(indexer::PagedBlock<indexer::PagedTile<kHeads, 1>>::kThreads,
                                  indexer::PagedBlock<indexer::PagedTile<kHeads, 1>>::kPerSm)
    sm90_paged_indexer_lists_kernel(__grid_constant__ ListingArgs const args) {
  using Tile = indexer::PagedTile<kHeads, 1>;
  using Block = indexer::PagedBlock<Tile>;
  extern __shared__ __align__(1024) uint8_t shared_memory[];
  auto& shared = *reinterpret_cast<ListingStorage<Tile>*>(shared_memory);
  int const warp = indexer::uniform(static_cast<int32_t>(threadIdx.x) / 32);
  int const lane = static_cast<int>(threadIdx.x) % 32;

  indexer::PagedProducer<Tile, PagesByStrata> producer(args, shared, lane);
  if (warp == Block::kProducerWarp) {
    producer.plan();
  } else if (warp == 0) {
    if (lane == 0) {
      shared.num_listed = 0;
      indexer::init_paged_barriers(static_cast<indexer::PagedStorage<Tile>&>(shared));
    }
  } else if (warp < Block::kMathWarps) {
    constexpr int kPrefetchThreads = (Block::kMathWarps - 1) * 32;
    indexer::prefetch_block_tables(args, static_cast<int32_t>(blockIdx.x) * kPrefetchThreads +
                                             static_cast<int32_t>(threadIdx.x) - 32);
  } else {
    for (int i = static_cast<int>(threadIdx.x) - 32 * Block::kFillerWarp; i < kGateBins;
         i += 32 * (Block::kThreads / 32 - Block::kFillerWarp)) {
      shared.gate.bins[i] = 0;
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
