// out = (e^lse_a out_a + e^lse_b out_b) / (e^lse_a + e^lse_b), lse = log of the denominator: a warp
// per head of a row. fp32 between bf16 input and output.
#include "dsa_ops/caches.h"
#include "kernels/caches/entry.h"
#include "kernels/caches/vector.cuh"

namespace dsa_ops {
namespace caches {

constexpr int kValuesPerAccess = 8;  // bf16 values in 16 bytes

// Adds share * src[0 ... 8) to the sums. An empty part is not read: it may hold NaN.
__device__ __forceinline__ void add_share(float (&sums)[kValuesPerAccess], bool empty, float share,
                                          __nv_bfloat16 const* src) {
  if (empty) return;
  float values[kValuesPerAccess];
  unpack_bf16(*reinterpret_cast<uint4 const*>(src), values);
#pragma unroll
  for (int i = 0; i < kValuesPerAccess; ++i) {
    sums[i] = __fadd_rn(sums[i], __fmul_rn(values[i], share));
  }
}

__global__ void __launch_bounds__(kThreads, kBlocksPerSm)
    merge_states_kernel(__grid_constant__ MergeStatesParams const params) {
  int64_t const row = warp_index() / params.num_heads;
  if (row >= params.num_rows) return;
  int64_t const head = warp_index() % params.num_heads;
  int const lane = static_cast<int>(threadIdx.x) % 32;

  float lse_a = params.lse_a[row * params.lse_a_row_stride + head];
  float lse_b = params.lse_b[row * params.lse_b_row_stride + head];
  bool const empty_a = isinf(lse_a);
  bool const empty_b = isinf(lse_b);
  if (empty_a) lse_a = -INFINITY;
  if (empty_b) lse_b = -INFINITY;
  float const largest = empty_a && empty_b ? 0.0f : max_or_nan(lse_a, lse_b);
  float const weight_a = expf(lse_a - largest);
  float const weight_b = expf(lse_b - largest);
  float const total = weight_a + weight_b;
  // Two empty parts make the shares 0 / 0, but then neither is used, and log(0) is the -inf wanted.
  float const share_a = __fdiv_rn(weight_a, total);
  float const share_b = __fdiv_rn(weight_b, total);

  auto const* out_a = static_cast<__nv_bfloat16 const*>(params.out_a) +
                      row * params.out_a_row_stride + head * params.out_a_head_stride;
  auto const* out_b = static_cast<__nv_bfloat16 const*>(params.out_b) +
                      row * params.out_b_row_stride + head * params.out_b_head_stride;
  auto* out = static_cast<__nv_bfloat16*>(params.out) + row * params.out_row_stride +
              head * params.out_head_stride;
  for (int dim = lane * kValuesPerAccess; dim < params.head_dim; dim += 32 * kValuesPerAccess) {
    float sums[kValuesPerAccess] = {};
    add_share(sums, empty_a, share_a, out_a + dim);
    add_share(sums, empty_b, share_b, out_b + dim);
    *reinterpret_cast<uint4*>(out + dim) = pack_bf16(sums);
  }
  if (lane == 0) params.lse[row * params.lse_row_stride + head] = largest + logf(total);
}

KernelEntry const kMergeStatesKernel = {
    {"merge_states_kernel", "merge_states", "8 heads", kThreads, 0, kMaxRegisters},
    reinterpret_cast<void const*>(&merge_states_kernel)};

}  // namespace caches

inline namespace v0 {

Status merge_states(MergeStatesParams const& params, cudaStream_t stream) noexcept {
  caches::Requirements require("merge_states");
  require.at_least(0, params.num_rows, "num_rows");
  require.at_least(0, params.num_heads, "num_heads");
  require.at_least(0, params.head_dim, "head_dim");
  require.that(params.head_dim % caches::kValuesPerAccess == 0, "out_a",
               "of a head_dim divisible by 8", params.head_dim);
  if (params.num_rows > 0 && params.num_heads > 0) {
    require.pointer(params.lse_a, "lse_a");
    require.pointer(params.lse_b, "lse_b");
    require.pointer(params.lse, "lse");
    if (params.head_dim > 0) {
      require.pointer(params.out_a, "out_a");
      require.pointer(params.out_b, "out_b");
      require.pointer(params.out, "out");
    }
  }
  require.aligned_16(params.out_a, {2 * params.out_a_row_stride, 2 * params.out_a_head_stride},
                     "out_a");
  require.aligned_16(params.out_b, {2 * params.out_b_row_stride, 2 * params.out_b_head_stride},
                     "out_b");
  require.aligned_16(params.out, {2 * params.out_row_stride, 2 * params.out_head_stride}, "out");
  if (!require.status().ok()) return require.status();
  return caches::launch_rows(caches::merge_states_kernel, params.num_rows * params.num_heads,
                             caches::kWarpsPerBlock, stream, "merge_states", params);
}

}  // namespace v0
}  // namespace dsa_ops
