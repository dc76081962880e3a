// Prefix sums over a warp and over a block.
#pragma once
#include <cstdint>

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

// One barrier per call. Calls alternate between two `warp_totals`: a warp that is one call ahead
// writes the other one, and to be two ahead it must pass the barrier behind the slower warp's
// reads.
__device__ __forceinline__ BlockSum sum_block(uint32_t (&warp_totals)[kWarps], uint32_t value) {
  static_assert(kWarps <= 32);
  int const lane = threadIdx.x % 32;
  int const warp = threadIdx.x / 32;
  uint32_t const inclusive = warp_inclusive_sum(value, lane);
  if (lane == 31) warp_totals[warp] = inclusive;
  __syncthreads();
  uint32_t const warp_total = lane < kWarps ? warp_totals[lane] : 0;
  uint32_t const warp_inclusive = warp_inclusive_sum(warp_total, lane);
  uint32_t const before_warp = __shfl_sync(kAllLanes, warp_inclusive - warp_total, warp);
  return BlockSum{before_warp + inclusive - value, __shfl_sync(kAllLanes, warp_inclusive, 31)};
}

}  // namespace dsa_ops::topk_sm90
