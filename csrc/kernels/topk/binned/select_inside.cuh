// Which keys of one bin win.
#pragma once
#include <cstdint>

#include "kernels/topk/binned/traits.h"
#include "kernels/topk/cluster_select.cuh"
#include "kernels/topk/keys.cuh"
#include "kernels/topk/tile_ranks.cuh"

namespace dsa_ops::topk_sm90::binned {

// What a key is listed as: what comes before another is greater.
__device__ __forceinline__ uint64_t listed_as(float logit, uint32_t place) {
  return uint64_t{key_of(logit)} << 32 | ~place;
}

// Adds to a warp's winners those of the listed keys that win, and to `first` those of lower warps.
// By all lanes.
template <class Ranks>
__device__ __forceinline__ void take_listed(SharedStorage const& shared, Place const& place,
                                            Ranks& ranks, uint32_t& mask, uint32_t& first) {
  constexpr uint32_t kWarpKeys = 32 * kThreadKeys;
  uint32_t const lane = threadIdx.x % 32;
  uint32_t const warp = threadIdx.x / 32;
  uint64_t const mine = shared.listed[lane];
  uint32_t before = 0;
#pragma unroll 4
  for (uint32_t i = 0; i < place.inside; ++i) before += shared.listed[i] > mine ? 1 : 0;
  bool const wins = lane < place.inside && before < place.rank;
  uint32_t const at = ~static_cast<uint32_t>(mine);
  first += __popc(__ballot_sync(kAllLanes, wins && at / kWarpKeys < warp));
  uint32_t own = __ballot_sync(kAllLanes, wins && at / kWarpKeys == warp);
#pragma unroll 1
  for (; own != 0; own &= own - 1) ranks.add(mask, __shfl_sync(kAllLanes, at, __ffs(own) - 1));
}

// True if the top_k-th best logit is `crowd`: sets the bits of those above it and of its first. One
// barrier.
template <class Ranks>
__device__ __forceinline__ bool select_crowd(SharedStorage& shared,
                                             float const (&logits)[kThreadKeys], float crowd,
                                             uint32_t top_k, uint32_t& mask) {
  int const lane = threadIdx.x % 32;
  int const warp = threadIdx.x / 32;
  uint32_t greater = 0;
  uint32_t equal = 0;
#pragma unroll
  for (int i = 0; i < kThreadKeys; ++i) {
    greater |= logits[i] > crowd ? 1u << i : 0;
    equal |= logits[i] == crowd ? 1u << i : 0;
  }
  Ranks const ranks(equal);
  uint32_t const warp_greater = __reduce_add_sync(kAllLanes, __popc(greater));
  if (lane == 0) {
    shared.lowest[warp] = warp_greater;
    shared.highest[warp] = ranks.total();
  }
  __syncthreads();
  uint32_t const above = __reduce_add_sync(kAllLanes, lane < kWarps ? shared.lowest[lane] : 0);
  uint32_t const own = lane < kWarps ? shared.highest[lane] : 0;
  uint32_t const ties = __reduce_add_sync(kAllLanes, own);
  uint32_t const ties_before = __reduce_add_sync(kAllLanes, lane < warp ? own : 0);
  if (above >= top_k || above + ties < top_k) return false;
  mask = greater;
  ranks.visit(equal, [&](int bit, uint32_t rank) {
    if (above + ties_before + rank < top_k) mask |= 1u << bit;
  });
  return true;
}

// Bits of the `rank` best keys of the block, of any number; kNoKey is none. Barriers: the extreme
// keys; those of the selection and of the ties.
template <class Ranks>
__device__ __forceinline__ uint32_t select_any(SharedStorage& shared,
                                               uint32_t const (&keys)[kThreadKeys], uint32_t rank) {
  int const lane = threadIdx.x % 32;
  int const warp = threadIdx.x / 32;
  uint32_t lowest = ~0u;
  uint32_t highest = 0;
#pragma unroll
  for (int i = 0; i < kThreadKeys; ++i) {
    lowest = min(lowest, keys[i] - 1);  // kNoKey becomes the greatest
    highest = max(highest, keys[i]);
  }
  lowest = __reduce_min_sync(kAllLanes, lowest);
  highest = __reduce_max_sync(kAllLanes, highest);
  if (lane == 0) {
    shared.lowest[warp] = lowest;
    shared.highest[warp] = highest;
  }
  ClusterSelect<1, kThreads> selector(shared.select, static_cast<int>(rank));
  __syncthreads();
  lowest = __reduce_min_sync(kAllLanes, shared.lowest[lane % kWarps]) + 1;
  highest = __reduce_max_sync(kAllLanes, shared.highest[lane % kWarps]);
  Verdict verdict{lowest, rank, 0, 0, false};  // if all are equal
  if (lowest != highest) {
    uint32_t const range = highest - lowest;
    Interval interval{lowest, range, round_shift(range)};
    selector.select(keys, interval);
    verdict = selector.verdict();
  }
  return winner_mask<Ranks, kThreads>(shared.warp_values[0], keys, verdict);
}

}  // namespace dsa_ops::topk_sm90::binned
