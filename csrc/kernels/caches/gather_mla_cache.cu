// kv[row] = bf16(e4m3 * scale), RoPE values of the row's slot: a warp per row.
#include "dsa_ops/caches.h"
#include "kernels/caches/entry.h"
#include "kernels/caches/gathered_row.cuh"
#include "kernels/caches/mla_token.cuh"
#include "kernels/caches/vector.cuh"

namespace dsa_ops {
namespace caches {

__global__ void __launch_bounds__(kThreads, kBlocksPerSm)
    gather_mla_cache_kernel(__grid_constant__ GatherMlaCacheParams const params) {
  int64_t const row = warp_index();
  if (row >= params.num_tokens) return;
  GatheredRow const source = locate_row(params, row, params.page_size);
  if (!source.covered) return;

  int const lane = static_cast<int>(threadIdx.x) % 32;
  float values[kValuesPerLane] = {};
  uint4 rope = make_uint4(0, 0, 0, 0);
  if (source.page >= 0) {
    void const* token = byte_offset(
        params.mla_cache, source.page * params.page_stride_bytes + source.offset * kMlaTokenBytes);
    uint4 const latent = *static_cast<uint4 const*>(byte_offset(token, lane * kValuesPerLane));
    float const scale = *static_cast<float const*>(
        byte_offset(token, kMlaScalesOffset + 4 * (lane / kLanesPerVector)));
    if (lane < kMlaRopeLanes) {
      rope = *static_cast<uint4 const*>(byte_offset(token, kMlaRopeOffset + 16 * lane));
    }
    unpack_e4m3(latent, values);
#pragma unroll
    for (float& value : values) value = __fmul_rn(value, scale);
  }
  uint4* kv =
      reinterpret_cast<uint4*>(static_cast<__nv_bfloat16*>(params.kv) + row * params.kv_stride);
  kv[2 * lane] = pack_bf16(values);
  kv[2 * lane + 1] = pack_bf16(values + 8);
  if (lane < kMlaRopeLanes) kv[kMlaLatentDim / 8 + lane] = rope;
}

KernelEntry const kGatherMlaCacheKernel = {
    {"gather_mla_cache_kernel", "gather_mla_cache", "8 tokens", kThreads, 0, kMaxRegisters},
    reinterpret_cast<void const*>(&gather_mla_cache_kernel)};

}  // namespace caches

inline namespace v0 {

Status gather_mla_cache(GatherMlaCacheParams const& params, cudaStream_t stream) noexcept {
  caches::Requirements require("gather_mla_cache");
  require.at_least(1, params.page_size, "page_size");
  require.cache(params.mla_cache, params.num_pages, params.page_stride_bytes,
                params.page_size * kMlaTokenBytes, "mla_cache");
  require.requests(params);
  if (params.num_tokens > 0) require.pointer(params.kv, "kv");
  require.aligned_16(params.kv, {2 * params.kv_stride}, "kv");
  if (!require.status().ok()) return require.status();
  return caches::launch_rows(caches::gather_mla_cache_kernel, params.num_tokens,
                             caches::kWarpsPerBlock, stream, "gather_mla_cache", params);
}

}  // namespace v0
}  // namespace dsa_ops
