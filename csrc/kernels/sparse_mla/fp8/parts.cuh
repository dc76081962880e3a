// The parts of a row whose index list is split, and how they are joined:
//
//   out = sum_i 2^(r_i - r) O_i / sum_i 2^(r_i - r) s_i      r_i, s_i a part's reference and sum
//
// Split::kCluster: a block pushes every other block's share of its part into that block's shared
// memory as soon as its products are done, and joins its own share once all have arrived. No
// barrier of the cluster lies between. The number of splits is a power of two. Split::kScratch:
// parts go to scratch and a second kernel joins them, which starts under this one.
#pragma once
#include <cuda_fp16.h>

#include "device/ptx/cluster.cuh"
#include "device/ptx/convert.cuh"
#include "device/ptx/global.cuh"
#include "device/ptx/grid.cuh"
#include "device/ptx/mbarrier.cuh"
#include "device/ptx/shared.cuh"
#include "kernels/sparse_mla/fp8/tile.cuh"

namespace dsa_ops::sparse_mla::fp8 {

// Four dims of a head in a part: f16 times 2^part_exponent. Weights are at most 2^8 and values at
// most 448 * 2, so that the sum over a split's tokens stays below 2^16.
inline constexpr uint32_t kEntryBytes = 8;

__device__ __forceinline__ int part_exponent(KernelArgs const& args) {
  return 2 + 32 - __clz(args.blocks_per_split * kBlockTokens - 1);
}

__device__ __forceinline__ uint4 pack_entries(float4 first, float4 second, float scale) {
  return make_uint4(ptx::pack_f16(first.x * scale, first.y * scale),
                    ptx::pack_f16(first.z * scale, first.w * scale),
                    ptx::pack_f16(second.x * scale, second.y * scale),
                    ptx::pack_f16(second.z * scale, second.w * scale));
}

__device__ __forceinline__ float4 unpack_entry(uint2 bits) {
  float2 const low = __half22float2(reinterpret_cast<__half2 const&>(bits.x));
  float2 const high = __half22float2(reinterpret_cast<__half2 const&>(bits.y));
  return make_float4(low.x, low.y, high.x, high.y);
}

// Of four dims of a head in a part. The heads of a warp's lanes are turned against each other so
// that they meet no bank conflict.
__device__ __forceinline__ uint32_t part_index(int head, int quarter) {
  return static_cast<uint32_t>(head * 128 + (quarter ^ ((head & 6) << 1)));
}

__device__ __forceinline__ int log2_of(int power_of_two) { return 31 - __clz(power_of_two); }

// What a split joins of a part: entries of part_index from `first` on, of heads from first_head on.
template <class HeadTile>
struct Share {
  int shift;  // log2 of its entries
  int first, first_head, heads;

  __device__ __forceinline__ Share(int num_splits, int split)
      : shift(log2_of(HeadTile::kHeads * 128) - log2_of(num_splits)),
        first(split << shift),
        first_head(first >> 7),
        heads(max(1 << shift >> 7, 1)) {}

  __device__ __forceinline__ int entries() const { return 1 << shift; }
};

// Where the parts of the other splits go: stages of tokens that the last blocks do not use, if
// there are any.
template <class HeadTile>
struct PartStages {
  static constexpr int kStages = HeadTile::kStages;
  int first, count;

  __device__ __forceinline__ explicit PartStages(KernelArgs const& args) {
    constexpr uint32_t kStageBytes = kBlockTokens * kTokenPitch;
    uint32_t const bytes =
        (args.num_splits - 1) * Share<HeadTile>(args.num_splits, 0).entries() * kEntryBytes;
    count = static_cast<int>((bytes + kStageBytes - 1) / kStageBytes);
    first = args.blocks_per_split % kStages;
    if (first + count > kStages) first = 0;
  }

  // Returns once every warp has read its last tokens there.
  __device__ __forceinline__ void wait_until_free(SharedStorage<HeadTile>& shared,
                                                  int num_blocks) const {
    for (int stage = first; stage < first + count; ++stage) {
      int const uses = (num_blocks - stage + kStages - 1) / kStages;
      ptx::mbarrier_wait(&shared.token_empty[stage], (uses & 1) ^ 1);
    }
  }
};

// By one thread, before the cluster's barrier.
template <class HeadTile>
__device__ __forceinline__ void expect_parts(SharedStorage<HeadTile>& shared,
                                             KernelArgs const& args, int split) {
  Share<HeadTile> const share(args.num_splits, split);
  ptx::mbarrier_init(&shared.parts_full, 1);
  ptx::fence_mbarrier_init();
  ptx::mbarrier_arrive_expect_tx(
      &shared.parts_full,
      args.num_splits * (share.entries() * kEntryBytes + share.heads * sizeof(float2)));
}

__device__ __forceinline__ int64_t part_of_block(KernelArgs const& args) {
  return static_cast<int64_t>(blockIdx.x) * args.num_splits + blockIdx.y;
}

// A head's reference and sum, to where they are joined.
template <bool kPushes, class HeadTile>
__device__ __forceinline__ void hand_over_sum(SharedStorage<HeadTile>& shared,
                                              KernelArgs const& args, int split, int head,
                                              float2 sum) {
  if constexpr (kPushes) {
    uint2 const bits = make_uint2(__float_as_uint(sum.x), __float_as_uint(sum.y));
    Share<HeadTile> const share(args.num_splits, split);
    int const last = (head * 128 + 127) >> share.shift;
    for (int to = head * 128 >> share.shift; to <= last; ++to) {
      int const first_head = to << share.shift >> 7;
      float2 const* const target = &shared.peer[split * share.heads + head - first_head];
      ptx::store_async(ptx::map_to_rank(ptx::shared_address(target), to), bits,
                       ptx::map_to_rank(ptx::shared_address(&shared.parts_full), to));
    }
  } else {
    args.part_sums[part_of_block(args) * HeadTile::kHeads + head] = sum;
  }
}

// Where the entries of this block's part go.
template <class HeadTile, bool kPushes>
struct PartTargets {
  int const shift, split;
  uint32_t const own, area, barrier;
  float const scale;

  __device__ __forceinline__ PartTargets(SharedStorage<HeadTile>& shared, KernelArgs const& args,
                                         int own_split)
      : shift(Share<HeadTile>(args.num_splits, 0).shift),
        split(own_split),
        own(ptx::shared_address(shared.query)),
        area(ptx::shared_address(shared.token[PartStages<HeadTile>(args).first])),
        barrier(ptx::shared_address(&shared.parts_full)),
        scale(ptx::power_of_two(-part_exponent(args))) {}

  // Where block `to` has what comes from split `from`.
  __device__ __forceinline__ uint32_t base(int from, int to) const {
    return from == to ? own : area + ((from - (from > to ? 1 : 0)) << shift) * kEntryBytes;
  }

  // Two neighbouring entries, of which the first is even.
  __device__ __forceinline__ void put(int head, int quarter, float4 first, float4 second) const {
    uint32_t const entry = part_index(head, quarter);
    int const to = static_cast<int>(entry >> shift);
    uint32_t const offset = (entry & ((1u << shift) - 1)) * kEntryBytes;
    ptx::store_async(ptx::map_to_rank(base(split, to) + offset, to),
                     pack_entries(first, second, scale), ptx::map_to_rank(barrier, to));
  }
};

template <class HeadTile>
struct PartTargets<HeadTile, false> {
  uint2* const part;
  float const scale;

  __device__ __forceinline__ PartTargets(SharedStorage<HeadTile>&, KernelArgs const& args, int)
      : part(args.part_values + part_of_block(args) * (HeadTile::kHeads * 128)),
        scale(ptx::power_of_two(-part_exponent(args))) {}

  __device__ __forceinline__ void put(int head, int quarter, float4 first, float4 second) const {
    *reinterpret_cast<uint4*>(part + head * 128 + quarter) = pack_entries(first, second, scale);
  }
};

// The join of four dims of a head: parts are added in the order of the splits.
struct Joined {
  float reference = -INFINITY;
  float4 sum = {0.f, 0.f, 0.f, 0.f};
  float total = 0.f;

  __device__ __forceinline__ void refer(float2 part) { reference = fmaxf(reference, part.x); }

  // The same of the parts that the other lanes of an entry have seen.
  __device__ __forceinline__ void refer_with(int lanes) {
#pragma unroll 1
    for (int distance = 1; distance < lanes; distance *= 2) {
      reference = fmaxf(reference, __shfl_xor_sync(0xFFFFFFFFu, reference, distance));
    }
  }

  // Once `refer` has seen all parts.
  __device__ __forceinline__ void add(float2 part, float4 const& value) {
    float const shift = reference == -INFINITY ? 0.f : reference;
    float const weight = ptx::exp2_flushed(part.x - shift);
    total = fmaf(weight, part.y, total);
    sum.x = fmaf(weight, value.x, sum.x);
    sum.y = fmaf(weight, value.y, sum.y);
    sum.z = fmaf(weight, value.z, sum.z);
    sum.w = fmaf(weight, value.w, sum.w);
  }

  __device__ __forceinline__ void add_of(int lanes) {
#pragma unroll 1
    for (int distance = 1; distance < lanes; distance *= 2) {
      total += __shfl_xor_sync(0xFFFFFFFFu, total, distance);
      sum.x += __shfl_xor_sync(0xFFFFFFFFu, sum.x, distance);
      sum.y += __shfl_xor_sync(0xFFFFFFFFu, sum.y, distance);
      sum.z += __shfl_xor_sync(0xFFFFFFFFu, sum.z, distance);
      sum.w += __shfl_xor_sync(0xFFFFFFFFu, sum.w, distance);
    }
  }

  // Approximate functions: this code runs once, and its length costs more than its work.
  __device__ __forceinline__ void store(KernelArgs const& args, int64_t row, int head, int quarter,
                                        bool keep) const {
    constexpr float kLn2 = 0.6931471805599453f;
    bool const empty = total == 0.f;
    float const lse = empty ? -INFINITY : (reference + ptx::log2_approx(total)) * kLn2;
    float factor = empty ? 0.f : __fdividef(1.f, total);
    if (args.attn_sink && keep && !empty) {
      factor = __fdividef(factor, 1.f + __expf(args.attn_sink[head] - lse));
    }
    factor *= ptx::power_of_two(part_exponent(args));
    ptx::store_global_8(
        args.out + row * args.out_row_stride + head * args.out_head_stride + quarter * 4,
        make_uint2(ptx::pack_bf16(sum.x * factor, sum.y * factor),
                   ptx::pack_bf16(sum.z * factor, sum.w * factor)),
        keep);
    ptx::store_global_4(args.lse + row * args.num_heads + head, __float_as_uint(lse),
                        keep && quarter == 0);
  }
};

// By warpgroups 1 and 2. Up to four lanes take an entry, every so many pairs of splits each.
template <class HeadTile>
__device__ __forceinline__ void join_parts(SharedStorage<HeadTile>& shared, KernelArgs const& args,
                                           Tile const& tile, int thread) {
  Share<HeadTile> const share(args.num_splits, tile.split);
  PartTargets<HeadTile, true> const parts(shared, args, tile.split);
  int const lanes = share.entries() >= 256 ? 1 : 256 >> share.shift;
  int const lane = thread & (lanes - 1);
  ptx::mbarrier_wait_cluster(&shared.parts_full, 0);
#pragma unroll 1
  for (int i = thread / lanes; i < share.entries(); i += 256 / lanes) {
    int const entry = share.first + i;
    int const head = entry >> 7, quarter = (entry & 127) ^ ((head & 6) << 1);
    float2 const* const sums = &shared.peer[head - share.first_head];
    Joined joined;
#pragma unroll 1
    for (int split = 2 * lane; split < args.num_splits; split += 2 * lanes) {
      joined.refer(sums[split * share.heads]);
      joined.refer(sums[(split + 1) * share.heads]);
    }
    joined.refer_with(lanes);
#pragma unroll 1
    for (int split = 2 * lane; split < args.num_splits; split += 2 * lanes) {
      auto const value_of = [&](int from) {
        return unpack_entry(ptx::load_shared_8(parts.base(from, tile.split) + i * kEntryBytes));
      };
      float4 const first = value_of(split), second = value_of(split + 1);
      joined.add(sums[split * share.heads], first);
      joined.add(sums[(split + 1) * share.heads], second);
    }
    joined.add_of(lanes);
    joined.store(args, tile.row, tile.first_head + head, quarter, lane == 0 && head < tile.heads);
  }
}

inline constexpr int kJoinThreads = 128;

// One thread block per head of a row, a thread for four dims. kMaxSplits loads in flight.
template <int kMaxSplits>
__global__ void __launch_bounds__(kJoinThreads)
    fp8_join_kernel(__grid_constant__ const KernelArgs args, int tile_heads) {
  int64_t const row = blockIdx.y;
  int const head = blockIdx.x, tile = head / tile_heads, local = head - tile * tile_heads;
  int64_t const first = ((row * args.head_tiles + tile) * args.num_splits) * tile_heads + local;
  uint2 const* const values = args.part_values + first * 128 + threadIdx.x;
  float2 const* const sums = args.part_sums + first;
  // The first pass, without a load or store, brings the code in while the kernel before ends.
#pragma unroll 1
  for (int pass = 0; pass < 2; ++pass) {
    bool const live = pass == 1;
    if (live) ptx::wait_for_prior_kernels();
    uint2 value[kMaxSplits];
    float2 sum[kMaxSplits];
#pragma unroll
    for (int split = 0; split < kMaxSplits; ++split) {
      bool const exists = live && split < args.num_splits;
      sum[split] = exists ? __ldcg(sums + split * tile_heads) : make_float2(-INFINITY, 0.f);
      value[split] = exists ? __ldcg(values + split * tile_heads * 128) : make_uint2(0, 0);
    }
    Joined joined;
#pragma unroll
    for (float2 const& part : sum) joined.refer(part);
#pragma unroll
    for (int split = 0; split < kMaxSplits; ++split) {
      joined.add(sum[split], unpack_entry(value[split]));
    }
    joined.store(args, row, head, threadIdx.x, live);
  }
}

}  // namespace dsa_ops::sparse_mla::fp8
