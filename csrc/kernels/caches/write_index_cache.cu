// index_cache[slot_mapping[t]] = e4m3(k[t] / s), s: 8 lanes per token, four tokens per warp.
#include "dsa_ops/caches.h"
#include "kernels/caches/entry.h"
#include "kernels/caches/index_store.cuh"

namespace dsa_ops {
namespace caches {

__global__ void __launch_bounds__(kThreads, kBlocksPerSm)
    write_index_cache_kernel(__grid_constant__ WriteIndexCacheParams const params) {
  auto const [token, lane, active] = vector_lane(params.num_tokens);
  auto const* k = static_cast<__nv_bfloat16 const*>(params.k) + token * params.k_stride;
  float values[kValuesPerLane];
  load_bf16(k + lane * kValuesPerLane, values);
  store_index_vector(values, lane, params.index_cache, params.page_stride_bytes, params.num_pages,
                     active ? params.slot_mapping[token] : -1, params.ue8m0);
}

KernelEntry const kWriteIndexCacheKernel = {
    {"write_index_cache_kernel", "write_index_cache", "32 tokens", kThreads, 0, kMaxRegisters},
    reinterpret_cast<void const*>(&write_index_cache_kernel)};

}  // namespace caches

inline namespace v0 {

Status write_index_cache(WriteIndexCacheParams const& params, cudaStream_t stream) noexcept {
  caches::Requirements require("write_index_cache");
  require.at_least(0, params.num_tokens, "num_tokens");
  if (params.num_tokens > 0) {
    require.pointer(params.k, "k");
    require.pointer(params.slot_mapping, "slot_mapping");
  }
  require.aligned_16(params.k, {2 * params.k_stride}, "k");
  require.cache(params.index_cache, params.num_pages, params.page_stride_bytes, kIndexPageBytes,
                "index_cache");
  if (!require.status().ok()) return require.status();
  return caches::launch_rows(caches::write_index_cache_kernel, params.num_tokens,
                             caches::kVectorsPerBlock, stream, "write_index_cache", params);
}

}  // namespace v0
}  // namespace dsa_ops
