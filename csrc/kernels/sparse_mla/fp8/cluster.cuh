// Joins the splits of an index list: the thread blocks of a cluster each have one, and each joins
// an equal share of the output from the parts that all of them left in shared memory.
//
//   out = sum_i 2^(r_i - r) O_i / sum_i 2^(r_i - r) s_i      r_i, s_i a part's reference and sum
#pragma once
#include "device/ptx/cluster.cuh"
#include "device/ptx/convert.cuh"
#include "device/ptx/shared.cuh"
#include "kernels/sparse_mla/fp8/tile.cuh"

namespace dsa_ops::sparse_mla::fp8 {

// Where four dims of a head lie in a part. The heads of a warp's lanes are turned against each
// other so that they meet no bank conflict.
__device__ __forceinline__ uint32_t part_offset(int head, int quarter) {
  return static_cast<uint32_t>(head * 128 + (quarter ^ (head & 6))) * 16;
}

// By warpgroups 1 and 2, between two barriers of the cluster.
template <class HeadTile>
__device__ __forceinline__ void join_parts(SharedStorage<HeadTile>& shared, KernelArgs const& args,
                                           Tile const& tile, int thread) {
  constexpr float kLn2 = 0.6931471805599453f;
  constexpr int kQuarters = HeadTile::kHeads * 128;
  int const share = (kQuarters + args.num_splits - 1) / args.num_splits;
  int const first = min(tile.split * share, kQuarters);
  int const last = min(first + share, kQuarters);
  int const first_head = first >> 7;
  int const heads = ((last + 127) >> 7) - first_head;
  uint32_t const parts = ptx::shared_address(shared.part);
  for (int i = thread; i < args.num_splits * heads; i += 256) {
    int const split = i / heads, head = i % heads;
    uint2 const bits = ptx::load_cluster_pair(
        ptx::map_to_rank(parts + (first_head + head) * sizeof(float2), split));
    shared.peer[i] = make_float2(__uint_as_float(bits.x), __uint_as_float(bits.y));
  }
  ptx::named_barrier_sync(kPeersRead, 256);
  uint32_t const outputs = ptx::shared_address(shared.query);
  for (int i = first + thread; i < last; i += 256) {
    int const head = i >> 7, quarter = i & 127, local = head - first_head;
    if (head >= tile.heads) break;
    float reference = -INFINITY;
    for (int split = 0; split < args.num_splits; ++split) {
      reference = fmaxf(reference, shared.peer[split * heads + local].x);
    }
    float const shift = reference == -INFINITY ? 0.f : reference;
    float4 sum = make_float4(0.f, 0.f, 0.f, 0.f);
    float total = 0.f;
    uint32_t const offset = part_offset(head, quarter);
#pragma unroll 8
    for (int split = 0; split < args.num_splits; ++split) {
      float2 const part = shared.peer[split * heads + local];
      float const weight = ptx::exp2_flushed(part.x - shift);
      float4 const value = ptx::load_cluster_16(ptx::map_to_rank(outputs + offset, split));
      total = fmaf(weight, part.y, total);
      sum.x = fmaf(weight, value.x, sum.x);
      sum.y = fmaf(weight, value.y, sum.y);
      sum.z = fmaf(weight, value.z, sum.z);
      sum.w = fmaf(weight, value.w, sum.w);
    }
    bool const empty = total == 0.f;
    float const lse = empty ? -INFINITY : (reference + log2f(total)) * kLn2;
    float factor = empty ? 0.f : 1.f / total;
    int const global_head = tile.first_head + head;
    if (args.attn_sink && !empty) factor /= 1.f + expf(args.attn_sink[global_head] - lse);
    uint16_t* const target = args.out + tile.row * args.out_row_stride +
                             global_head * args.out_head_stride + quarter * 4;
    *reinterpret_cast<uint2*>(target) = make_uint2(ptx::pack_bf16(sum.x * factor, sum.y * factor),
                                                   ptx::pack_bf16(sum.z * factor, sum.w * factor));
    if (quarter == 0) args.lse[tile.row * args.num_heads + global_head] = lse;
  }
}

}  // namespace dsa_ops::sparse_mla::fp8
