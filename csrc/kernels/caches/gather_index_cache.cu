// k[row], k_scale[row] = index_cache[slot of row]: 8 lanes per row, 16 bytes each.
#include "dsa_ops/caches.h"
#include "kernels/caches/entry.h"
#include "kernels/caches/gathered_row.cuh"
#include "kernels/caches/vector.cuh"

namespace dsa_ops {
namespace caches {

__global__ void __launch_bounds__(kThreads, kBlocksPerSm)
    gather_index_cache_kernel(__grid_constant__ GatherIndexCacheParams const params) {
  auto const [row, lane, active] = vector_lane(params.num_tokens);
  GatheredRow const source = locate_row(params, row, kIndexPageTokens);
  if (!active || !source.covered) return;
  uint4 keys = make_uint4(0, 0, 0, 0);
  float scale = 0.0f;
  if (source.page >= 0) {
    void const* page = byte_offset(params.index_cache, source.page * params.page_stride_bytes);
    keys = *static_cast<uint4 const*>(
        byte_offset(page, source.offset * kIndexHeadDim + lane * kValuesPerLane));
    scale = *static_cast<float const*>(
        byte_offset(page, kIndexPageTokens * kIndexHeadDim + 4 * source.offset));
  }
  *static_cast<uint4*>(byte_offset(params.k, row * params.k_stride + lane * kValuesPerLane)) = keys;
  if (lane == 0) params.k_scale[row] = scale;
}

KernelEntry const kGatherIndexCacheKernel = {
    {"gather_index_cache_kernel", "gather_index_cache", "32 tokens", kThreads, 0, kMaxRegisters},
    reinterpret_cast<void const*>(&gather_index_cache_kernel)};

}  // namespace caches

inline namespace v0 {

Status gather_index_cache(GatherIndexCacheParams const& params, cudaStream_t stream) noexcept {
  caches::Requirements require("gather_index_cache");
  require.cache(params.index_cache, params.num_pages, params.page_stride_bytes, kIndexPageBytes,
                "index_cache");
  require.requests(params);
  if (params.num_tokens > 0) {
    require.pointer(params.k, "k");
    require.pointer(params.k_scale, "k_scale");
  }
  require.aligned_16(params.k, {params.k_stride}, "k");
  if (!require.status().ok()) return require.status();
  return caches::launch_rows(caches::gather_index_cache_kernel, params.num_tokens,
                             caches::kVectorsPerBlock, stream, "gather_index_cache", params);
}

}  // namespace v0
}  // namespace dsa_ops
