// Asynchronous copies into shared memory: cp.async, bulk copies and tensor-map (TMA) copies.
#pragma once
#include <cuda.h>

#include <cstdint>

#include "device/ptx/mbarrier.cuh"

namespace dsa_ops::ptx {

// Copies 4 bytes, or writes 4 zero bytes without reading when `valid` is false.
__device__ __forceinline__ void cp_async_4(uint32_t shared_dst, void const* src, bool valid) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_dst), "l"(src),
               "r"(valid ? 4 : 0)
               : "memory");
}

// A cache policy for data read once: the L2 gives its lines up first.
__device__ __forceinline__ uint64_t evict_first_policy() {
  uint64_t policy;
  asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}

// The policy of loads without one.
__device__ __forceinline__ uint64_t evict_normal_policy() {
  uint64_t policy;
  asm volatile("createpolicy.fractional.L2::evict_normal.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}

// The opposite of evict_first: its lines go last.
__device__ __forceinline__ uint64_t evict_last_policy() {
  uint64_t policy;
  asm volatile("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}

// Brings the line of an address that global memory holds into the L2.
__device__ __forceinline__ void prefetch_l2(void const* address) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(address) : "memory");
}

// Copies `bytes` (a multiple of 16) and completes them on the barrier.
__device__ __forceinline__ void bulk_copy(void* shared_dst, void const* src, uint32_t bytes,
                                          uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(shared_address(shared_dst)),
      "l"(src), "r"(bytes), "r"(shared_address(barrier))
      : "memory");
}

__device__ __forceinline__ void bulk_copy(void* shared_dst, void const* src, uint32_t bytes,
                                          uint64_t* barrier, uint64_t cache_policy) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], "
      "[%1], "
      "%2, [%3], %4;" ::"r"(shared_address(shared_dst)),
      "l"(src), "r"(bytes), "r"(shared_address(barrier)), "l"(cache_policy)
      : "memory");
}

// The same into the blocks of the cluster that `ranks` has bits for, at the same place of each, and
// completes the bytes on the barrier at the same place of each.
__device__ __forceinline__ void bulk_copy_multicast(void* shared_dst, void const* src,
                                                    uint32_t bytes, uint64_t* barrier,
                                                    uint16_t ranks) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], "
      "[%1], %2, [%3], %4;" ::"r"(shared_address(shared_dst)),
      "l"(src), "r"(bytes), "r"(shared_address(barrier)), "h"(ranks)
      : "memory");
}

__device__ __forceinline__ void bulk_copy_multicast(void* shared_dst, void const* src,
                                                    uint32_t bytes, uint64_t* barrier,
                                                    uint16_t ranks, uint64_t cache_policy) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster"
      ".L2::cache_hint [%0], [%1], %2, [%3], %4, %5;" ::"r"(shared_address(shared_dst)),
      "l"(src), "r"(bytes), "r"(shared_address(barrier)), "h"(ranks), "l"(cache_policy)
      : "memory");
}

__device__ __forceinline__ void tma_load_2d(void* shared_dst, CUtensorMap const* map,
                                            uint64_t* barrier, int32_t x, int32_t y) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, "
      "%4}], [%2];" ::"r"(shared_address(shared_dst)),
      "l"(map), "r"(shared_address(barrier)), "r"(x), "r"(y)
      : "memory");
}

__device__ __forceinline__ void tma_load_3d(void* shared_dst, CUtensorMap const* map,
                                            uint64_t* barrier, int32_t x, int32_t y, int32_t z) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, "
      "%4, %5}], [%2];" ::"r"(shared_address(shared_dst)),
      "l"(map), "r"(shared_address(barrier)), "r"(x), "r"(y), "r"(z)
      : "memory");
}

__device__ __forceinline__ void tma_load_3d(void* shared_dst, CUtensorMap const* map,
                                            uint64_t* barrier, int32_t x, int32_t y, int32_t z,
                                            uint64_t cache_policy) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1, {%3, %4, %5}], [%2], %6;" ::"r"(shared_address(shared_dst)),
      "l"(map), "r"(shared_address(barrier)), "r"(x), "r"(y), "r"(z), "l"(cache_policy)
      : "memory");
}

__device__ __forceinline__ void tma_load_4d(void* shared_dst, CUtensorMap const* map,
                                            uint64_t* barrier, int32_t x, int32_t y, int32_t z,
                                            int32_t w) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, "
      "%4, %5, %6}], [%2];" ::"r"(shared_address(shared_dst)),
      "l"(map), "r"(shared_address(barrier)), "r"(x), "r"(y), "r"(z), "r"(w)
      : "memory");
}

__device__ __forceinline__ void prefetch_tensor_map(CUtensorMap const* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

// Orders this thread's shared-memory writes before later reads of the async proxy (wgmma, TMA).
__device__ __forceinline__ void fence_proxy_async() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

}  // namespace dsa_ops::ptx
