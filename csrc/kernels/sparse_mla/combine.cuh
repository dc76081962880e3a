// Joins the partial attentions of a split launch.
//
//   lse = log2 sum_i 2^lse_i,   out = sum_i 2^(lse_i - lse) * out_i   (empty parts have lse = -inf)
//
// One block per (row, head); warp w and lane l hold dims 128 w + [4 l, 4 l + 4).
#pragma once
#include "device/ptx/convert.cuh"
#include "device/ptx/grid.cuh"
#include "kernels/sparse_mla/kernel_args.h"

namespace dsa_ops::sparse_mla {

inline constexpr int kCombineThreads = 128;
inline constexpr int kCombineDim = 512;

__global__ void __launch_bounds__(kCombineThreads)
    combine_kernel(__grid_constant__ const CombineArgs args) {
  int64_t const row = blockIdx.x / args.num_heads;
  int const head = static_cast<int>(blockIdx.x % args.num_heads);
  int const lane = threadIdx.x & 31;
  int64_t const first_part = row * args.num_splits * args.num_heads + head;
  float const* const lses = args.partial_lse + first_part;

  ptx::wait_for_prior_kernels();
  float maximum = -INFINITY;
  for (int split = lane; split < args.num_splits; split += 32) {
    maximum = fmaxf(maximum, lses[int64_t{split} * args.num_heads]);
  }
#pragma unroll
  for (int offset = 16; offset; offset >>= 1) {
    maximum = fmaxf(maximum, __shfl_xor_sync(0xFFFFFFFFu, maximum, offset));
  }
  float const shift = maximum == -INFINITY ? 0.f : maximum;

  float sum = 0.f;
  float4 total = {};
  // Each lane weighs one split of a batch; the warp then adds them up, many loads in flight.
  for (int batch = 0; batch < args.num_splits; batch += 32) {
    int const own = batch + lane;
    float const own_weight =
        own < args.num_splits ? exp2f(lses[int64_t{own} * args.num_heads] - shift) : 0.f;
    int const count = min(32, args.num_splits - batch);
#pragma unroll 16
    for (int i = 0; i < count; ++i) {
      float const weight = __shfl_sync(0xFFFFFFFFu, own_weight, i);
      int64_t const part = first_part + int64_t{batch + i} * args.num_heads;
      auto const* values = reinterpret_cast<float4 const*>(args.partial_out + part * kCombineDim);
      // The outputs of an empty part were never written.
      float4 const value = weight > 0.f ? values[threadIdx.x] : make_float4(0.f, 0.f, 0.f, 0.f);
      sum += weight;
      total.x = fmaf(weight, value.x, total.x);
      total.y = fmaf(weight, value.y, total.y);
      total.z = fmaf(weight, value.z, total.z);
      total.w = fmaf(weight, value.w, total.w);
    }
  }

  bool const empty = sum == 0.f;
  float const lse = empty ? -INFINITY : (maximum + log2f(sum)) * kLn2;
  float factor = empty ? 0.f : 1.f / sum;
  if (args.attn_sink && !empty) factor /= 1.f + expf(args.attn_sink[head] - lse);
  uint16_t* const out = args.out + row * args.out_row_stride + head * args.out_head_stride;
  reinterpret_cast<uint2*>(out)[threadIdx.x] =
      make_uint2(ptx::pack_bf16(total.x * factor, total.y * factor),
                 ptx::pack_bf16(total.z * factor, total.w * factor));
  if (threadIdx.x == 0) args.lse[row * args.num_heads + head] = lse;
}

}  // namespace dsa_ops::sparse_mla
