// Quantises an index vector held by 8 lanes and stores it in its slot of the index cache.
#pragma once
#include "dsa_ops/caches.h"
#include "kernels/caches/vector.cuh"

namespace dsa_ops::caches {

// Every lane of the warp calls this; `slot` outside the cache stores nothing.
__device__ __forceinline__ void store_index_vector(float const (&values)[kValuesPerLane], int lane,
                                                   void* index_cache, int64_t page_stride_bytes,
                                                   int64_t num_pages, int64_t slot, bool ue8m0) {
  float const scale = index_scale(vector_amax(values), ue8m0);
  uint4 const keys = quantize(values, scale, ue8m0);
  if (slot < 0 || slot >= num_pages * kIndexPageTokens) return;
  void* page = byte_offset(index_cache, slot / kIndexPageTokens * page_stride_bytes);
  int64_t const offset = slot % kIndexPageTokens;
  *static_cast<uint4*>(byte_offset(page, offset * kIndexHeadDim + lane * kValuesPerLane)) = keys;
  if (lane == 0) {
    *static_cast<float*>(byte_offset(page, kIndexPageTokens * kIndexHeadDim + 4 * offset)) = scale;
  }
}

}  // namespace dsa_ops::caches
