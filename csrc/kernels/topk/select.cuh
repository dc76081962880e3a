// The rank-th best of a list of values, and the k-th best candidate, within one block.
#pragma once
#include <cstdint>

#include "kernels/topk/row.cuh"
#include "kernels/topk/traits.h"

namespace dsa_ops::topk_sm90 {

inline constexpr unsigned kAllLanes = 0xFFFFFFFFu;

__device__ __forceinline__ uint32_t warp_inclusive_sum(uint32_t value, int lane) {
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) {
    uint32_t const below = __shfl_up_sync(kAllLanes, value, distance);
    if (lane >= distance) value += below;
  }
  return value;
}

struct BlockSum {
  uint32_t before;  // in lower threads
  uint32_t total;
};

// One barrier per call. Calls alternate between two buffers: a warp that is one call ahead writes
// the other one, and to be two ahead it must pass the barrier behind the slower warp's reads.
__device__ __forceinline__ BlockSum sum_block(SharedStorage& shared, int buffer, uint32_t value) {
  int const lane = threadIdx.x % 32;
  int const warp = threadIdx.x / 32;
  uint32_t const inclusive = warp_inclusive_sum(value, lane);
  if (lane == 31) shared.warp_totals[buffer][warp] = inclusive;
  __syncthreads();
  uint32_t const warp_total = lane < kWarps ? shared.warp_totals[buffer][lane] : 0;
  uint32_t const warp_inclusive = warp_inclusive_sum(warp_total, lane);
  uint32_t const before_warp = __shfl_sync(kAllLanes, warp_inclusive - warp_total, warp);
  return BlockSum{before_warp + inclusive - value, __shfl_sync(kAllLanes, warp_inclusive, 31)};
}

// Each thread clears the same bins at every call.
__device__ __forceinline__ void clear_histogram(uint32_t* histogram) {
  uint4* const quads = reinterpret_cast<uint4*>(histogram);
  for (int i = threadIdx.x; i < kBins / 4; i += kThreads) quads[i] = make_uint4(0, 0, 0, 0);
}

__device__ __forceinline__ void sum_coarse_bins(SharedStorage& shared, uint32_t const* histogram) {
  static_assert(kCoarseBins % kWarps == 0);
  int const lane = threadIdx.x % 32;
  int const warp = threadIdx.x / 32;
#pragma unroll
  for (int i = 0; i < kCoarseBins / kWarps; ++i) {
    int const coarse = i * kWarps + warp;
    uint32_t const sum = __reduce_add_sync(kAllLanes, histogram[coarse * 32 + lane]);
    if (lane == 0) shared.coarse[coarse] = sum;
  }
}

// One warp. Lane 0 holds the highest bins, so that sums over lower lanes count better values. Some
// lane always crosses: the bins hold at least `rank` values.
__device__ __forceinline__ void find_bin(SharedStorage& shared, uint32_t const* histogram,
                                         uint32_t low, int shift, uint32_t rank) {
  int const lane = threadIdx.x;
  int const low_coarse = 2 * (31 - lane);
  uint2 const pair = *reinterpret_cast<uint2 const*>(&shared.coarse[low_coarse]);
  uint32_t const inclusive = warp_inclusive_sum(pair.x + pair.y, lane);
  uint32_t const exclusive = inclusive - pair.x - pair.y;
  int const coarse_lane = __ffs(__ballot_sync(kAllLanes, inclusive >= rank)) - 1;
  bool const in_high = exclusive + pair.y >= rank;
  uint32_t const above =
      __shfl_sync(kAllLanes, in_high ? exclusive : exclusive + pair.y, coarse_lane);
  int const coarse = __shfl_sync(kAllLanes, low_coarse + (in_high ? 1 : 0), coarse_lane);

  int const bin = coarse * 32 + 31 - lane;
  uint32_t const inside = histogram[bin];
  uint32_t const above_or_in = above + warp_inclusive_sum(inside, lane);
  int const fine_lane = __ffs(__ballot_sync(kAllLanes, above_or_in >= rank)) - 1;
  if (lane == fine_lane) {
    shared.bin = Bin{low + (static_cast<uint32_t>(bin) << shift), shift,
                     rank - (above_or_in - inside), inside};
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
  sum_coarse_bins(shared, histogram);
  __syncthreads();
  if (threadIdx.x < 32) find_bin(shared, histogram, low, shift, rank);
  __syncthreads();
  Bin const bin = shared.bin;
  clear_histogram(histogram);
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

}  // namespace dsa_ops::topk_sm90
