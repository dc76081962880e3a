// Prefix sums over a block.
#pragma once
#include <cstdint>

#include "device/ptx/warp.cuh"

namespace dsa_ops::topk_sm90 {

inline constexpr unsigned kAllLanes = 0xFFFFFFFFu;

// The same value, unknown to the compiler: what is computed from it is computed here, and does not
// take registers from one use to the next through everything in between.
__device__ __forceinline__ uint32_t opaque(uint32_t value) {
  asm volatile("" : "+r"(value));
  return value;
}

// Sums over the block of kWords words at a time. One barrier; two sums in a row need different
// `warp_sums`, as a warp that is ahead writes while another still reads.
template <int kThreads, int kWords>
struct BlockSums {
  static constexpr int kWarps = kThreads / 32;
  using WarpSums = uint32_t[kWords][kWarps];

  uint32_t before[kWords];  // in lower threads
  uint32_t total[kWords];

  BlockSums() = default;
  __device__ __forceinline__ BlockSums(WarpSums& warp_sums, uint32_t const (&values)[kWords]) {
    int const lane = threadIdx.x % 32;
    int const warp = threadIdx.x / 32;
    uint32_t inclusive[kWords];
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      inclusive[i] = ptx::warp_inclusive_sum(values[i]);
      if (lane == 31) warp_sums[i][warp] = inclusive[i];
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      uint32_t const sum = lane < kWarps ? warp_sums[i][lane] : 0;
      before[i] = __reduce_add_sync(kAllLanes, lane < warp ? sum : 0) + inclusive[i] - values[i];
      total[i] = __reduce_add_sync(kAllLanes, sum);
    }
  }
};

}  // namespace dsa_ops::topk_sm90
