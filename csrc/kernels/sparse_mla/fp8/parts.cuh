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

// Four dims of a head in a part: f16 times 2^part_exponent. Weights are at most 2^kPartWeightLog2
// and values at most 448 * 2, so that the sum over a split's tokens stays below 2^16.
inline constexpr uint32_t kEntryBytes = 8;
inline constexpr int kPartWeightLog2 = 12;

__device__ __forceinline__ int part_exponent(KernelArgs const& args) {
  return kPartWeightLog2 - 6 + 32 - __clz(args.blocks_per_split * kBlockTokens - 1);
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

  __device__ __forceinline__ explicit PartStages(KernelArgs const& args)
      : PartStages(args, (args.num_splits - 1) * Share<HeadTile>(args.num_splits, 0).entries() *
                             kEntryBytes) {}

  __device__ __forceinline__ PartStages(KernelArgs const& args, uint32_t bytes) {
    constexpr uint32_t kStageBytes = kBlockTokens * kTokenPitch;
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
  ptx::mbarrier_init(&shared.sums_full, 1);
  ptx::mbarrier_init(&shared.parts_full, 1);
  ptx::fence_mbarrier_init();
  ptx::mbarrier_arrive_expect_tx(&shared.sums_full, args.num_splits * share.heads * sizeof(float2));
  ptx::mbarrier_arrive_expect_tx(&shared.parts_full,
                                 args.num_splits * share.entries() * kEntryBytes);
}

__device__ __forceinline__ int64_t part_of_block(KernelArgs const& args) {
  int64_t const tile = static_cast<int64_t>(blockIdx.y) * args.head_tiles + blockIdx.x;
  return tile * args.num_splits + blockIdx.z;
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
      float2 const* const target = &shared.peer[(head - first_head) * args.num_splits + split];
      ptx::store_async(ptx::map_to_rank(ptx::shared_address(target), to), bits,
                       ptx::map_to_rank(ptx::shared_address(&shared.sums_full), to));
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

// Approximate functions here and below: code that runs once costs its length more than its work.
struct Normaliser {
  float lse, factor;

  // From the parts' common reference and the sum of their weighted sums.
  __device__ __forceinline__ Normaliser(KernelArgs const& args, float reference, float total,
                                        int head, bool exists) {
    bool const empty = total == 0.f;
    lse = empty ? -INFINITY : (reference + ptx::log2_approx(total)) * kLn2;
    factor = empty ? 0.f : __fdividef(1.f, total);
    if (args.attn_sink && exists && !empty) {
      factor = __fdividef(factor, 1.f + __expf(args.attn_sink[head] - lse));
    }
    factor *= ptx::power_of_two(part_exponent(args));
  }
};

__device__ __forceinline__ void add_weighted(float4& sum, float weight, uint2 entry) {
  float4 const value = unpack_entry(entry);
  sum.x = fmaf(weight, value.x, sum.x);
  sum.y = fmaf(weight, value.y, sum.y);
  sum.z = fmaf(weight, value.z, sum.z);
  sum.w = fmaf(weight, value.w, sum.w);
}

__device__ __forceinline__ void store_joined(KernelArgs const& args, int64_t row, int head,
                                             int quarter, float4 const& sum, bool keep) {
  ptx::store_global_8(
      args.out + row * args.out_row_stride + head * args.out_head_stride + quarter * 4,
      make_uint2(ptx::pack_bf16(sum.x, sum.y), ptx::pack_bf16(sum.z, sum.w)), keep);
}

// What each split's part of each head counts in the output that this block joins, by one warp
// while the parts are still under way. A lane has one split of one head: there are at most
// max(kHeads, splits) such pairs.
template <class HeadTile>
__device__ __forceinline__ void weigh_parts(SharedStorage<HeadTile>& shared, KernelArgs const& args,
                                            Tile const& tile, int lane) {
  static_assert(HeadTile::kHeads <= 32 && kMaxSplits <= 32);
  Share<HeadTile> const share(args.num_splits, tile.split);
  ptx::mbarrier_wait_cluster(&shared.sums_full, 0);
  bool const exists = lane < share.heads * args.num_splits;
  float2 const part = exists ? shared.peer[lane] : make_float2(-INFINITY, 0.f);
  float reference = part.x;
#pragma unroll
  for (int distance = 1; distance < kMaxSplits; distance *= 2) {
    float const other = __shfl_xor_sync(0xFFFFFFFFu, reference, distance);
    if (distance < args.num_splits) reference = fmaxf(reference, other);
  }
  float const weight = ptx::exp2_flushed(part.x - (reference == -INFINITY ? 0.f : reference));
  float total = weight * part.y;
#pragma unroll
  for (int distance = 1; distance < kMaxSplits; distance *= 2) {
    float const other = __shfl_xor_sync(0xFFFFFFFFu, total, distance);
    if (distance < args.num_splits) total += other;
  }
  int const shift = log2_of(args.num_splits);
  int const local = share.first_head + (lane >> shift), head = tile.first_head + local;
  bool const keep = exists && local < tile.heads;
  Normaliser const normaliser(args, reference, total, head, keep);
  if (exists) shared.peer[lane].x = weight * normaliser.factor;
  // Of a head that two blocks share, the first one's.
  bool const first = (lane & (args.num_splits - 1)) == 0 && (share.first & 127) == 0;
  ptx::store_global_4(args.lse + tile.row * args.num_heads + head, __float_as_uint(normaliser.lse),
                      keep && first);
}

// By warpgroups 1 and 2, once the weights are there. Up to four lanes take an entry, every so many
// fours of splits each.
template <class HeadTile>
__device__ __forceinline__ void join_parts(SharedStorage<HeadTile>& shared, KernelArgs const& args,
                                           Tile const& tile, int thread) {
  Share<HeadTile> const share(args.num_splits, tile.split);
  PartTargets<HeadTile, true> const parts(shared, args, tile.split);
  int const lane_shift = max(8 - share.shift, 0), lanes = 1 << lane_shift;
  int const first_split = 4 * (thread & (lanes - 1));
  ptx::mbarrier_wait_cluster(&shared.parts_full, 0);
#pragma unroll 1
  for (int i = thread >> lane_shift; i < share.entries(); i += 256 >> lane_shift) {
    int const entry = share.first + i;
    int const head = entry >> 7, quarter = (entry & 127) ^ ((head & 6) << 1);
    auto const* const weights =  // of two parts each, at x and z
        reinterpret_cast<float4 const*>(&shared.peer[(head - share.first_head) * args.num_splits]);
    float4 sum = make_float4(0.f, 0.f, 0.f, 0.f);
#pragma unroll 1
    for (int split = first_split; split < args.num_splits; split += 4 * lanes) {
      bool const four = split + 2 < args.num_splits;
      uint2 const zero = make_uint2(0, 0);
      auto const value_of = [&](int from) {
        return ptx::load_shared_8(parts.base(from, tile.split) + i * kEntryBytes);
      };
      uint2 const values[4] = {value_of(split), value_of(split + 1),
                               four ? value_of(split + 2) : zero,
                               four ? value_of(split + 3) : zero};
      float4 const first = weights[split / 2];
      float4 const second = four ? weights[split / 2 + 1] : first;
      add_weighted(sum, first.x, values[0]);
      add_weighted(sum, first.z, values[1]);
      add_weighted(sum, second.x, values[2]);
      add_weighted(sum, second.z, values[3]);
    }
#pragma unroll 1
    for (int distance = 1; distance < lanes; distance *= 2) {
      sum.x += __shfl_xor_sync(0xFFFFFFFFu, sum.x, distance);
      sum.y += __shfl_xor_sync(0xFFFFFFFFu, sum.y, distance);
      sum.z += __shfl_xor_sync(0xFFFFFFFFu, sum.z, distance);
      sum.w += __shfl_xor_sync(0xFFFFFFFFu, sum.w, distance);
    }
    store_joined(args, tile.row, tile.first_head + head, quarter, sum,
                 (thread & (lanes - 1)) == 0 && head < tile.heads);
  }
}

inline constexpr int kJoinThreads = 128;
inline constexpr int kJoinHeads = 2;  // of a thread block: 64 threads, eight dims each

// Every multiprocessor has several thread blocks, and their instructions are what takes its time:
// eight dims a thread, and a split's weight is worked out by one lane of a warp. kMaxSplits loads
// in flight.
template <int kMaxSplits>
__global__ void __launch_bounds__(kJoinThreads)
    fp8_join_kernel(__grid_constant__ const KernelArgs args, int tile_heads) {
  static_assert(kMaxSplits <= 32, "a lane of a warp weighs a split");
  int64_t const row = blockIdx.y;
  int const head = static_cast<int>(blockIdx.x * kJoinHeads + threadIdx.x / 64);
  int const eighth = threadIdx.x & 63, lane = threadIdx.x & 31;
  int const tile = head / tile_heads, local = head - tile * tile_heads;
  int64_t const first = ((row * args.head_tiles + tile) * args.num_splits) * tile_heads + local;
  auto const* const values =
      reinterpret_cast<uint4 const*>(args.part_values + first * 128) + eighth;
  float2 const* const sums = args.part_sums + first;
  // A pass without a load or store brings the code in while the kernel before ends. One block of
  // four: there are about as many on a multiprocessor.
#pragma unroll 1
  for (int pass = (blockIdx.x + blockIdx.y * gridDim.x) & 3 ? 1 : 0; pass < 2; ++pass) {
    bool const live = pass == 1 && head < args.num_heads;
    if (pass == 1) ptx::wait_for_prior_kernels();
    float2 const part = live && lane < args.num_splits ? __ldcg(sums + lane * tile_heads)
                                                       : make_float2(-INFINITY, 0.f);
    uint4 value[kMaxSplits];
#pragma unroll
    for (int split = 0; split < kMaxSplits; ++split) {
      value[split] = live && split < args.num_splits ? __ldcg(values + split * tile_heads * 64)
                                                     : make_uint4(0, 0, 0, 0);
    }
    float reference = part.x;
#pragma unroll
    for (int distance = 1; distance < kMaxSplits; distance *= 2) {
      reference = fmaxf(reference, __shfl_xor_sync(0xFFFFFFFFu, reference, distance));
    }
    float const weight = ptx::exp2_flushed(part.x - (reference == -INFINITY ? 0.f : reference));
    float total = weight * part.y;
#pragma unroll
    for (int distance = 1; distance < kMaxSplits; distance *= 2) {
      total += __shfl_xor_sync(0xFFFFFFFFu, total, distance);
    }
    Normaliser const normaliser(args, reference, total, head, live);
    float const normalised = weight * normaliser.factor;
    float4 low = make_float4(0.f, 0.f, 0.f, 0.f), high = low;
#pragma unroll
    for (int split = 0; split < kMaxSplits; ++split) {
      float const own = __shfl_sync(0xFFFFFFFFu, normalised, split);
      add_weighted(low, own, make_uint2(value[split].x, value[split].y));
      add_weighted(high, own, make_uint2(value[split].z, value[split].w));
    }
    store_joined(args, row, head, 2 * eighth, low, live);
    store_joined(args, row, head, 2 * eighth + 1, high, live);
    ptx::store_global_4(args.lse + row * args.num_heads + head, __float_as_uint(normaliser.lse),
                        live && eighth == 0);
  }
}

}  // namespace dsa_ops::sparse_mla::fp8
