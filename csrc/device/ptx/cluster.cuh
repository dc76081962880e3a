// Thread-block clusters: their barrier, and shared memory of their blocks. Addresses are 32-bit, of
// the cluster's shared-memory window where the name says cluster and of the own block otherwise.
#pragma once
#include <cstdint>

namespace dsa_ops::ptx {

// Publishes this block's shared-memory writes to the blocks that wait.
__device__ __forceinline__ void cluster_arrive_release() {
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}

// Orders nothing: for "I no longer read my peers" only.
__device__ __forceinline__ void cluster_arrive_relaxed() {
  asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
}

__device__ __forceinline__ void cluster_wait_acquire() {
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// Address, in the cluster's shared-memory window, of a local shared address in block `rank`.
__device__ __forceinline__ uint32_t map_to_rank(uint32_t shared_address, uint32_t rank) {
  uint32_t mapped;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;"
               : "=r"(mapped)
               : "r"(shared_address), "r"(rank));
  return mapped;
}

// Of this thread block in its cluster.
__device__ __forceinline__ uint32_t cluster_rank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

// Arrives on a barrier of any block of the cluster. For reads that are over: with the scope of the
// cluster ptxas puts a fence of the whole device before it, which writes would need.
__device__ __forceinline__ void mbarrier_arrive_cluster(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// Copies `bytes` (a multiple of 16) of this block's shared memory to any block of the cluster and
// completes them on a barrier there.
__device__ __forceinline__ void bulk_copy_to_cluster(uint32_t target, uint32_t source,
                                                     uint32_t bytes, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%0], [%1], %2, "
      "[%3];" ::"r"(target),
      "r"(source), "r"(bytes), "r"(barrier)
      : "memory");
}

// Stores to any block of the cluster and completes the bytes on a barrier of that same block, whose
// waiters then see them. Orders nothing else.
__device__ __forceinline__ void store_async(uint32_t address, uint32_t value, uint32_t barrier) {
  asm volatile(
      "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.b32 [%0], %1, [%2];" ::"r"(
          address),
      "r"(value), "r"(barrier)
      : "memory");
}

__device__ __forceinline__ void store_async(uint32_t address, uint2 value, uint32_t barrier) {
  asm volatile(
      "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.b32 [%0], {%1, %2}, [%3];" ::
          "r"(address),
      "r"(value.x), "r"(value.y), "r"(barrier)
      : "memory");
}

__device__ __forceinline__ void store_async(uint32_t address, uint4 value, uint32_t barrier) {
  asm volatile(
      "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%1, %2, %3, %4}, "
      "[%5];" ::"r"(address),
      "r"(value.x), "r"(value.y), "r"(value.z), "r"(value.w), "r"(barrier)
      : "memory");
}

}  // namespace dsa_ops::ptx
