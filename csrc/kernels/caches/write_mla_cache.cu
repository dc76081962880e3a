// mla_cache[slot_mapping[t]] = e4m3(kv_latent[t] / s), s per 128 values, k_rope[t]: a warp per
// token.
#include "dsa_ops/caches.h"
#include "kernels/caches/entry.h"
#include "kernels/caches/mla_token.cuh"
#include "kernels/caches/vector.cuh"

namespace dsa_ops {
namespace caches {

__global__ void __launch_bounds__(kThreads, kBlocksPerSm)
    write_mla_cache_kernel(__grid_constant__ WriteMlaCacheParams const params) {
  int64_t const token = warp_index();
  if (token >= params.num_tokens) return;
  int64_t const slot = params.slot_mapping[token];
  if (slot < 0 || slot >= params.num_pages * params.page_size) return;

  int const lane = static_cast<int>(threadIdx.x) % 32;
  auto const* latent =
      static_cast<__nv_bfloat16 const*>(params.kv_latent) + token * params.kv_latent_stride;
  float values[kValuesPerLane];
  load_bf16(latent + lane * kValuesPerLane, values);
  float const scale = mla_scale(vector_amax(values));
  uint4 const quantized = quantize(values, scale, /*power_of_two=*/false);

  void* dst = byte_offset(params.mla_cache, slot / params.page_size * params.page_stride_bytes +
                                                slot % params.page_size * kMlaTokenBytes);
  *static_cast<uint4*>(byte_offset(dst, lane * kValuesPerLane)) = quantized;
  if (lane % kLanesPerVector == 0) {
    *static_cast<float*>(byte_offset(dst, kMlaScalesOffset + 4 * (lane / kLanesPerVector))) = scale;
  }
  if (lane < kMlaRopeLanes) {
    auto const* rope =
        static_cast<__nv_bfloat16 const*>(params.k_rope) + token * params.k_rope_stride;
    *static_cast<uint4*>(byte_offset(dst, kMlaRopeOffset + 16 * lane)) =
        reinterpret_cast<uint4 const*>(rope)[lane];
  }
}

KernelEntry const kWriteMlaCacheKernel = {
    {"write_mla_cache_kernel", "write_mla_cache", "8 tokens", kThreads, 0, kMaxRegisters},
    reinterpret_cast<void const*>(&write_mla_cache_kernel)};

}  // namespace caches

inline namespace v0 {

Status write_mla_cache(WriteMlaCacheParams const& params, cudaStream_t stream) noexcept {
  caches::Requirements require("write_mla_cache");
  require.at_least(0, params.num_tokens, "num_tokens");
  require.at_least(1, params.page_size, "page_size");
  if (params.num_tokens > 0) {
    require.pointer(params.kv_latent, "kv_latent");
    require.pointer(params.k_rope, "k_rope");
    require.pointer(params.slot_mapping, "slot_mapping");
  }
  require.aligned_16(params.kv_latent, {2 * params.kv_latent_stride}, "kv_latent");
  require.aligned_16(params.k_rope, {2 * params.k_rope_stride}, "k_rope");
  require.cache(params.mla_cache, params.num_pages, params.page_stride_bytes,
                params.page_size * kMlaTokenBytes, "mla_cache");
  if (!require.status().ok()) return require.status();
  return caches::launch_rows(caches::write_mla_cache_kernel, params.num_tokens,
                             caches::kWarpsPerBlock, stream, "write_mla_cache", params);
}

}  // namespace v0
}  // namespace dsa_ops
