// index_cache[slot_mapping[t]] = e4m3(rotate(layer_norm(k[t])) / s), s: 8 lanes per token, four
// tokens per warp, everything between input and output in registers.
#include "dsa_ops/caches.h"
#include "kernels/caches/entry.h"
#include "kernels/caches/index_store.cuh"
#include "kernels/caches/rotate.cuh"

namespace dsa_ops {
namespace caches {

__global__ void __launch_bounds__(kThreads, kBlocksPerSm)
    prepare_index_k_kernel(__grid_constant__ PrepareIndexKParams const params) {
  auto const [token, lane, active] = vector_lane(params.num_tokens);
  auto const* k = static_cast<__nv_bfloat16 const*>(params.k) + token * params.k_stride;
  float values[kValuesPerLane];
  load_bf16(k + lane * kValuesPerLane, values);
  if (params.norm_weight != nullptr) {
    layer_norm(values, lane, params.norm_weight, params.norm_bias, params.eps);
  }
  rotate_index_vector(values, lane, params, params.positions[token]);
  store_index_vector(values, lane, params.index_cache, params.page_stride_bytes, params.num_pages,
                     active ? params.slot_mapping[token] : -1, params.ue8m0);
}

KernelEntry const kPrepareIndexKKernel = {
    {"prepare_index_k_kernel", "prepare_index_k", "32 tokens", kThreads, 0, kMaxRegisters},
    reinterpret_cast<void const*>(&prepare_index_k_kernel)};

}  // namespace caches

inline namespace v0 {

Status prepare_index_k(PrepareIndexKParams const& params, cudaStream_t stream) noexcept {
  caches::Requirements require("prepare_index_k");
  require.at_least(0, params.num_tokens, "num_tokens");
  require.at_least(1, params.num_positions, "num_positions");
  if (params.norm_weight != nullptr) require.pointer(params.norm_bias, "norm_bias");
  if (params.norm_bias != nullptr) require.pointer(params.norm_weight, "norm_weight");
  if (params.num_tokens > 0) {
    require.pointer(params.k, "k");
    require.pointer(params.positions, "positions");
    require.pointer(params.cos_sin_cache, "cos_sin_cache");
    require.pointer(params.slot_mapping, "slot_mapping");
  }
  require.aligned_16(params.k, {2 * params.k_stride}, "k");
  require.cache(params.index_cache, params.num_pages, params.page_stride_bytes, kIndexPageBytes,
                "index_cache");
  if (!require.status().ok()) return require.status();
  return caches::launch_rows(caches::prepare_index_k_kernel, params.num_tokens,
                             caches::kVectorsPerBlock, stream, "prepare_index_k", params);
}

}  // namespace v0
}  // namespace dsa_ops
