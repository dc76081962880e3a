// The rank-th best of a list of values, and the k-th best candidate, within one block.
#pragma once
#include <cstdint>

#include "kernels/topk/gated/traits.h"
#include "kernels/topk/histogram.cuh"
#include "kernels/topk/keys.cuh"

namespace dsa_ops::topk_sm90::gated {

// One warp.
__device__ __forceinline__ void find_bin(SharedStorage& shared, uint32_t const* histogram,
                                         uint32_t low, int shift, uint32_t rank) {
  int const lane = threadIdx.x;
  uint2 const pair = *reinterpret_cast<uint2 const*>(&shared.coarse[coarse_pair_of(lane)]);
  CoarseHit const coarse = find_coarse(pair, rank, lane);
  int const bin = bin_of(coarse.coarse, lane);
  uint32_t const inside = histogram[bin];
  FineHit const fine = find_fine(inside, coarse.above, rank, lane);
  if (lane == fine.lane) {
    shared.bin = Bin{low + (static_cast<uint32_t>(bin) << shift), shift, rank - fine.above, inside};
  }
}

// Splits [low, low + range] into at most 2,048 bins and finds the one that holds the rank-th best
// of the values value(0) ... value(count - 1) that lie in it. Needs and leaves a clear histogram.
// Barriers: the caller's values and the cleared histogram; the counts; the coarse sums; the result,
// behind which the histogram may be cleared.
template <class Value>
__device__ __forceinline__ Bin find_rank(SharedStorage& shared, uint32_t* histogram, uint32_t count,
                                         Value const& value, uint32_t low, uint32_t range,
                                         uint32_t rank) {
  constexpr int kBatch = 4;  // no load may pass an atomic
  int const shift = max(32 - __clz(range) - kBinsLog2, 0);
  __syncthreads();
  for (uint32_t first = threadIdx.x; first < count; first += kBatch * kThreads) {
    uint32_t offsets[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      uint32_t const index = first + i * kThreads;
      offsets[i] = index < count ? value(index) - low : ~0u;
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      if (offsets[i] <= range) atomicAdd(&histogram[offsets[i] >> shift], 1u);
    }
  }
  __syncthreads();
  sum_coarse_bins(shared.coarse, histogram);
  __syncthreads();
  if (threadIdx.x < 32) find_bin(shared, histogram, low, shift, rank);
  __syncthreads();
  Bin const bin = shared.bin;
  clear_histogram(histogram, threadIdx.x, kThreads);
  return bin;
}

// The best and the worst of the block's values. Two calls must be separated by a barrier.
struct Extent {
  uint32_t best;
  uint32_t worst;
};

__device__ __forceinline__ Extent find_extent(SharedStorage& shared, uint32_t best,
                                              uint32_t worst) {
  int const lane = threadIdx.x % 32;
  int const warp = threadIdx.x / 32;
  best = __reduce_max_sync(kAllLanes, best);
  worst = __reduce_min_sync(kAllLanes, worst);
  if (lane == 0) {
    shared.warp_best[warp] = best;
    shared.warp_worst[warp] = worst;
  }
  __syncthreads();
  return Extent{__reduce_max_sync(kAllLanes, shared.warp_best[lane % kWarps]),
                __reduce_min_sync(kAllLanes, shared.warp_worst[lane % kWarps])};
}

// Candidates in shared memory, in any order; no two share a position.
struct Candidates {
  uint32_t* keys;
  uint32_t* positions;
  int count;
};

// The rank-th best of at most 32 candidates in the bin [low, low + range]: each lane of a warp
// counts the candidates better than its own.
__device__ __forceinline__ Threshold find_finalist(SharedStorage& shared,
                                                   Candidates const& candidates, Bin const& bin) {
  uint32_t const range = (1u << bin.shift) - 1;
  for (int i = threadIdx.x; i < candidates.count; i += kThreads) {
    if (candidates.keys[i] - bin.low <= range) {
      uint32_t const slot = atomicAdd(&shared.num_finalists, 1u);
      shared.finalist_keys[slot] = candidates.keys[i];
      shared.finalist_positions[slot] = candidates.positions[i];
    }
  }
  __syncthreads();
  if (threadIdx.x < 32) {
    bool const is_finalist = threadIdx.x < bin.inside;
    uint32_t const key = is_finalist ? shared.finalist_keys[threadIdx.x] : 0;
    uint32_t const position = is_finalist ? shared.finalist_positions[threadIdx.x] : ~0u;
    uint32_t better = 0;
#pragma unroll 8
    for (int lane = 0; lane < kMaxFinalists; ++lane) {
      uint32_t const other_key = __shfl_sync(kAllLanes, key, lane);
      uint32_t const other_position = __shfl_sync(kAllLanes, position, lane);
      better += other_key > key || (other_key == key && other_position < position) ? 1 : 0;
    }
    if (is_finalist && better + 1 == bin.rank) shared.threshold = Threshold{key, position};
  }
  __syncthreads();
  return shared.threshold;
}

// Candidates of one key: the rank-th lowest position among them.
__device__ __forceinline__ Threshold find_tie(SharedStorage& shared, uint32_t* histogram,
                                              Candidates const& candidates, uint32_t key,
                                              uint32_t rank, int32_t length) {
  uint32_t const low = ~static_cast<uint32_t>(length - 1);
  auto const value = [&](int i) {  // ascending as positions descend; below `low` for other keys
    return candidates.keys[i] == key ? ~candidates.positions[i] : low - 1;
  };
  Bin bin{low, 0, rank, 0};
  uint32_t range = length - 1;
  do {
    bin = find_rank(shared, histogram, candidates.count, value, bin.low, range, bin.rank);
    range = (1u << bin.shift) - 1;
  } while (bin.rank != bin.inside && bin.shift > 0);
  return Threshold{key, ~bin.low};
}

// The k-th best of more than k candidates, whose keys are the bits of their logits on entry and
// keys on return.
__device__ __forceinline__ Threshold find_threshold(SharedStorage& shared, uint32_t* histogram,
                                                    Candidates const& candidates, int top_k,
                                                    int32_t length) {
  uint32_t best = 0;
  uint32_t worst = ~0u;
  for (int i = threadIdx.x; i < candidates.count; i += kThreads) {
    uint32_t const key = key_of(__uint_as_float(candidates.keys[i]));
    candidates.keys[i] = key;
    best = max(best, key);
    worst = min(worst, key);
  }
  Extent const extent = find_extent(shared, best, worst);
  Bin bin{extent.worst, 0, static_cast<uint32_t>(top_k), 0};
  uint32_t range = extent.best - extent.worst;
  while (true) {
    bin = find_rank(
        shared, histogram, candidates.count, [&](int i) { return candidates.keys[i]; }, bin.low,
        range, bin.rank);
    if (bin.rank == bin.inside) return Threshold{bin.low, ~0u};
    if (bin.inside <= kMaxFinalists) return find_finalist(shared, candidates, bin);
    if (bin.shift == 0) {
      return find_tie(shared, histogram, candidates, bin.low, bin.rank, length);
    }
    range = (1u << bin.shift) - 1;
  }
}

}  // namespace dsa_ops::topk_sm90::gated
