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

// kBatch: splits whose values are under way at a time. ptxas, told no number of blocks, would have
// two of them in registers.
template <int kBatch>
__global__ void __launch_bounds__(kCombineThreads, 4)
    combine_kernel(__grid_constant__ const CombineArgs args) {
  int64_t const row = blockIdx.x / args.num_heads;
  int const head = static_cast<int>(blockIdx.x % args.num_heads);
  int const lane = threadIdx.x & 31;
  int64_t const first_part = row * args.num_splits * args.num_heads + head;
  float const* const lses = args.partial_lse + first_part;
  auto const* const values =
      reinterpret_cast<float4 const*>(args.partial_out + first_part * kCombineDim) + threadIdx.x;
  // A pass without a load or store brings the code in while the kernel before ends. One block of
  // four: there are about as many on a multiprocessor.
#pragma unroll 1
  for (int pass = blockIdx.x & 3 ? 1 : 0; pass < 2; ++pass) {
    int const splits = pass == 1 ? args.num_splits : 0;
    if (pass == 1) ptx::wait_for_prior_kernels();

    float maximum = -INFINITY, sum = 0.f;
    float4 total = make_float4(0.f, 0.f, 0.f, 0.f);
    int first = 0;
#pragma unroll 1
    do {
      // Each lane weighs one split.
      bool const weighs = lane < kBatch && first + lane < splits;
      float const own_lse =
          weighs ? __ldcg(lses + int64_t{first + lane} * args.num_heads) : -INFINITY;
      float4 value[kBatch];
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        int64_t const part = int64_t{first + i} * args.num_heads;
        value[i] = first + i < splits ? __ldcg(values + part * (kCombineDim / 4))
                                      : make_float4(0.f, 0.f, 0.f, 0.f);
      }
      float top = fmaxf(maximum, own_lse);
#pragma unroll
      for (int offset = 16; offset; offset >>= 1) {
        top = fmaxf(top, __shfl_xor_sync(0xFFFFFFFFu, top, offset));
      }
      float const shift = top == -INFINITY ? 0.f : top;
      float const kept = exp2f(maximum - shift), own_weight = exp2f(own_lse - shift);
      maximum = top;
      sum *= kept;
      total = make_float4(total.x * kept, total.y * kept, total.z * kept, total.w * kept);
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        float const weight = __shfl_sync(0xFFFFFFFFu, own_weight, i);
        sum += weight;
        total.x = fmaf(weight, value[i].x, total.x);
        total.y = fmaf(weight, value[i].y, total.y);
        total.z = fmaf(weight, value[i].z, total.z);
        total.w = fmaf(weight, value[i].w, total.w);
      }
      first += kBatch;
    } while (first < splits);

    bool const empty = sum == 0.f;
    float const lse = empty ? -INFINITY : (maximum + log2f(sum)) * kLn2;
    float factor = empty ? 0.f : 1.f / sum;
    if (args.attn_sink && !empty) factor /= 1.f + expf(args.attn_sink[head] - lse);
    uint16_t* const out = args.out + row * args.out_row_stride + head * args.out_head_stride;
    if (pass == 1) {
      reinterpret_cast<uint2*>(out)[threadIdx.x] =
          make_uint2(ptx::pack_bf16(total.x * factor, total.y * factor),
                     ptx::pack_bf16(total.z * factor, total.w * factor));
      if (threadIdx.x == 0) args.lse[row * args.num_heads + head] = lse;
    }
  }
}

}  // namespace dsa_ops::sparse_mla
