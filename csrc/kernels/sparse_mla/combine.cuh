// Joins the partial attentions of a split launch.
//
//   lse = log2 sum_i 2^lse_i,   out = sum_i 2^(lse_i - lse) * out_i   (empty parts have lse = -inf)
//
// One warp per (row, head); lane l holds dims [16 l, 16 l + 16).
#pragma once
#include "kernels/sparse_mla/producer.cuh"

namespace dsa_ops::sparse_mla {

inline constexpr int kCombineThreads = 128;

__global__ void __launch_bounds__(kCombineThreads)
    combine_kernel(__grid_constant__ const CombineArgs args) {
  int64_t const pair =
      static_cast<int64_t>(blockIdx.x) * (kCombineThreads / 32) + (threadIdx.x >> 5);
  int64_t const row = pair / args.num_heads;
  if (row >= args.num_rows) return;
  int const head = static_cast<int>(pair - row * args.num_heads);
  int const lane = threadIdx.x & 31;
  int64_t const first_part = row * args.num_splits * args.num_heads + head;

  float maximum = -INFINITY;
  for (int split = lane; split < args.num_splits; split += 32) {
    maximum = fmaxf(maximum, args.partial_lse[first_part + int64_t{split} * args.num_heads]);
  }
#pragma unroll
  for (int offset = 16; offset; offset >>= 1) {
    maximum = fmaxf(maximum, __shfl_xor_sync(0xFFFFFFFFu, maximum, offset));
  }

  float sum = 0.f;
  float total[16] = {};
  for (int split = 0; split < args.num_splits; ++split) {
    int64_t const part = first_part + int64_t{split} * args.num_heads;
    float const lse = args.partial_lse[part];
    if (lse == -INFINITY) continue;
    float const weight = exp2f(lse - maximum);
    sum += weight;
    auto const* values =
        reinterpret_cast<float4 const*>(args.partial_out + part * kLatentDim + lane * 16);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float4 const value = values[i];
      total[4 * i] = fmaf(weight, value.x, total[4 * i]);
      total[4 * i + 1] = fmaf(weight, value.y, total[4 * i + 1]);
      total[4 * i + 2] = fmaf(weight, value.z, total[4 * i + 2]);
      total[4 * i + 3] = fmaf(weight, value.w, total[4 * i + 3]);
    }
  }

  constexpr float kLn2 = 0.6931471805599453f;
  bool const empty = sum == 0.f;
  float const lse = empty ? -INFINITY : (maximum + log2f(sum)) * kLn2;
  float factor = empty ? 0.f : 1.f / sum;
  if (args.attn_sink && !empty) factor /= 1.f + expf(args.attn_sink[head] - lse);
  uint32_t packed[8];
#pragma unroll
  for (int i = 0; i < 8; ++i)
    packed[i] = pack_bf16(total[2 * i] * factor, total[2 * i + 1] * factor);
  auto* out = reinterpret_cast<uint4*>(args.out + row * args.out_row_stride +
                                       head * args.out_head_stride + lane * 16);
  out[0] = make_uint4(packed[0], packed[1], packed[2], packed[3]);
  out[1] = make_uint4(packed[4], packed[5], packed[6], packed[7]);
  if (lane == 0) args.lse[row * args.num_heads + head] = lse;
}

}  // namespace dsa_ops::sparse_mla
