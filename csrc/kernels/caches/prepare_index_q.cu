// q_out[t, h] = e4m3(rotate(q[t, h]) / s), weights_out[t, h] = weights * s * softmax_scale *
// Hi^-0.5: 8 lanes per head vector, four vectors per warp, everything between input and output in
// registers.
#include <cmath>

#include "dsa_ops/caches.h"
#include "kernels/caches/entry.h"
#include "kernels/caches/rotate.cuh"

namespace dsa_ops {
namespace caches {

__global__ void __launch_bounds__(kThreads, kBlocksPerSm)
    prepare_index_q_kernel(__grid_constant__ PrepareIndexQParams const params, int num_heads_log2,
                           float head_scale) {
  auto const [vector, lane, active] = vector_lane(params.num_rows << num_heads_log2);
  int64_t const row = vector >> num_heads_log2;
  int64_t const head = vector - (row << num_heads_log2);

  auto const* q = static_cast<__nv_bfloat16 const*>(params.q) + row * params.q_row_stride +
                  head * params.q_head_stride;
  float values[kValuesPerLane];
  load_bf16(q + lane * kValuesPerLane, values);
  rotate_index_vector(values, lane, params, params.positions[row]);
  float const scale = index_scale(vector_amax(values), params.ue8m0);
  uint4 const quantized = quantize(values, scale, params.ue8m0);
  if (!active) return;

  void* q_out =
      byte_offset(params.q_out, row * params.q_out_row_stride + head * params.q_out_head_stride +
                                    lane * kValuesPerLane);
  *static_cast<uint4*>(q_out) = quantized;
  if (lane == 0) {
    float const weight = params.weights[row * params.weights_row_stride + head];
    params.weights_out[row * params.weights_out_row_stride + head] =
        __fmul_rn(__fmul_rn(__fmul_rn(weight, scale), params.softmax_scale), head_scale);
  }
}

KernelEntry const kPrepareIndexQKernel = {
    {"prepare_index_q_kernel", "prepare_index_q", "32 head vectors", kThreads, 0, kMaxRegisters},
    reinterpret_cast<void const*>(&prepare_index_q_kernel)};

}  // namespace caches

inline namespace v0 {

Status prepare_index_q(PrepareIndexQParams const& params, cudaStream_t stream) noexcept {
  caches::Requirements require("prepare_index_q");
  require.at_least(0, params.num_rows, "num_rows");
  int num_heads_log2 = 3;
  while (num_heads_log2 < 6 && 1 << num_heads_log2 != params.num_heads) ++num_heads_log2;
  require.that(1 << num_heads_log2 == params.num_heads, "q", "of 8 or 16 or 32 or 64 heads",
               params.num_heads);
  require.at_least(1, params.num_positions, "num_positions");
  if (params.num_rows > 0) {
    require.pointer(params.q, "q");
    require.pointer(params.positions, "positions");
    require.pointer(params.cos_sin_cache, "cos_sin_cache");
    require.pointer(params.weights, "weights");
    require.pointer(params.q_out, "q_out");
    require.pointer(params.weights_out, "weights_out");
  }
  require.aligned_16(params.q, {2 * params.q_row_stride, 2 * params.q_head_stride}, "q");
  require.aligned_16(params.q_out, {params.q_out_row_stride, params.q_out_head_stride}, "q_out");
  if (!require.status().ok()) return require.status();
  float const head_scale = static_cast<float>(std::pow(double(params.num_heads), -0.5));
  return caches::launch_rows(caches::prepare_index_q_kernel, params.num_rows << num_heads_log2,
                             caches::kVectorsPerBlock, stream, "prepare_index_q", params,
                             num_heads_log2, head_scale);
}

}  // namespace v0
}  // namespace dsa_ops
