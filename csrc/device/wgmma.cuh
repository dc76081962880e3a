// Warpgroup matrix products on 128-byte-swizzled tiles. The instruction wrappers are CUTLASS's
// (cute/arch); this file gives them accumulator arrays and builds their descriptors.
#pragma once
#include <cstdint>
#include <cute/arch/mma_sm90_gmma.hpp>
#include <utility>

#include "device/ptx/mbarrier.cuh"
#include "device/ptx/warpgroup.cuh"

namespace dsa_ops {

// Descriptor of a K-major tile whose rows are 128 bytes (64 16-bit or 128 8-bit values) in the 128B
// swizzle: 8-row groups are 1024 B apart. The tile base is 1024-B aligned; advancing by one k step
// of 32 bytes adds 2 to the low word.
__device__ __forceinline__ uint64_t k_major_descriptor(uint32_t shared_address) {
  return (uint64_t{1} << 62) | (uint64_t{1024 >> 4} << 32) | (uint64_t{1} << 16) |
         ((shared_address & 0x3FFFF) >> 4);
}

// Descriptor of an MN-major (transposed) 16-bit operand made of 64-column panels in the 128B
// swizzle: a panel holds k rows of 128 bytes, the next panel starts `panel_stride_bytes` further.
// Advancing by one k step of 16 rows adds 16 * 128 bytes (128 to the low word).
__device__ __forceinline__ uint64_t mn_major_descriptor(uint32_t shared_address,
                                                        uint32_t panel_stride_bytes) {
  return (uint64_t{1} << 62) | (uint64_t{1024 >> 4} << 32) |
         (uint64_t{panel_stride_bytes >> 4} << 16) | ((shared_address & 0x3FFFF) >> 4);
}

namespace detail {
template <class Instruction, int kCount, int... I>
__device__ __forceinline__ void wgmma_ss(float (&acc)[kCount], uint64_t a, uint64_t b,
                                         bool accumulate, std::integer_sequence<int, I...>) {
  Instruction::fma(a, b, acc[I]...,
                   accumulate ? cute::SM90::GMMA::ScaleOut::One : cute::SM90::GMMA::ScaleOut::Zero);
}
template <class Instruction, int kCount, int... I>
__device__ __forceinline__ void wgmma_rs(float (&acc)[kCount], uint32_t const (&a)[4], uint64_t b,
                                         bool accumulate, std::integer_sequence<int, I...>) {
  Instruction::fma(a[0], a[1], a[2], a[3], b, acc[I]...,
                   accumulate ? cute::SM90::GMMA::ScaleOut::One : cute::SM90::GMMA::ScaleOut::Zero);
}
}  // namespace detail

// acc (+)= A . B with both operands in shared memory. Asynchronous: see wgmma_commit and
// wgmma_wait.
template <class Instruction, int kCount>
__device__ __forceinline__ void wgmma_ss(float (&acc)[kCount], uint64_t a, uint64_t b,
                                         bool accumulate) {
  detail::wgmma_ss<Instruction>(acc, a, b, accumulate, std::make_integer_sequence<int, kCount>{});
}

// acc (+)= A . B with A in registers, which stay untouched until the group has completed.
template <class Instruction, int kCount>
__device__ __forceinline__ void wgmma_rs(float (&acc)[kCount], uint32_t const (&a)[4], uint64_t b,
                                         bool accumulate) {
  detail::wgmma_rs<Instruction>(acc, a, b, accumulate, std::make_integer_sequence<int, kCount>{});
}

// Keeps the compiler from moving accumulator reads and writes across this point.
template <int kCount>
__device__ __forceinline__ void pin_registers(float (&acc)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(acc[i])::"memory");
}

template <int kCount>
__device__ __forceinline__ void pin_registers(uint32_t (&operand)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+r"(operand[i])::"memory");
}

}  // namespace dsa_ops
