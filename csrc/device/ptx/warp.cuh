// Warp-level instructions.
#pragma once
#include <cstdint>

namespace dsa_ops::ptx {

// True in one lane of a converged warp. Copies issued under it are emitted once; under
// `lane == 0` ptxas wraps each of them in a loop over the active lanes.
__device__ __forceinline__ bool elect_one() {
  uint32_t elected;
  asm volatile(
      "{\n"
      ".reg .pred leader;\n"
      "elect.sync _|leader, 0xffffffff;\n"
      "selp.u32 %0, 1, 0, leader;\n"
      "}"
      : "=r"(elected)::"memory");
  return elected != 0;
}

// Of the values of lanes 0 to `lane`, this one. By all lanes.
template <class Integer>
__device__ __forceinline__ Integer warp_inclusive_sum(Integer value, int lane) {
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) {
    Integer const below = __shfl_up_sync(0xffffffff, value, distance);
    if (lane >= distance) value += below;
  }
  return value;
}

}  // namespace dsa_ops::ptx
