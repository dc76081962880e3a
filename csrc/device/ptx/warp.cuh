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

// Of the values of lanes 0 to this one. By all lanes. In PTX, as the shuffle tells which lanes have
// one below.
template <class Integer>
__device__ __forceinline__ Integer warp_inclusive_sum(Integer value) {
  static_assert(sizeof(Integer) == 4);
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) {
    asm volatile(
        "{\n"
        ".reg .pred has;\n"
        ".reg .b32 below;\n"
        "shfl.sync.up.b32 below|has, %0, %1, 0, 0xffffffff;\n"
        "@has add.u32 %0, %0, below;\n"
        "}"
        : "+r"(value)
        : "r"(distance));
  }
  return value;
}

// The same of two values at a time, and of every kShare lanes, that have the same values, once.
template <int kShare = 1>
__device__ __forceinline__ uint2 warp_inclusive_sum(uint2 values) {
#pragma unroll
  for (int distance = kShare; distance < 32; distance *= 2) {
    asm volatile(
        "{\n"
        ".reg .pred has;\n"
        ".reg .b32 below<2>;\n"
        "shfl.sync.up.b32 below0|has, %0, %2, 0, 0xffffffff;\n"
        "shfl.sync.up.b32 below1, %1, %2, 0, 0xffffffff;\n"
        "@has add.u32 %0, %0, below0;\n"
        "@has add.u32 %1, %1, below1;\n"
        "}"
        : "+r"(values.x), "+r"(values.y)
        : "r"(distance));
  }
  return values;
}

}  // namespace dsa_ops::ptx
