// Split::kTwo and kThree: the splits of a row join in a cluster, as with Split::kCluster, but in
// registers. Of two, each joins what one of warpgroups 1 and 2 holds; of three, every third column
// of both (see values.cuh). A thread gets from the other splits what it has itself, of the same
// heads and dims, so that no index says where a part's values go.
#pragma once
#include "kernels/sparse_mla/fp8/parts.cuh"

namespace dsa_ops::sparse_mla::fp8 {

template <class HeadTile, int kSplits>
struct FewParts {
  static_assert(kSplits == 2 || kSplits == 3);
  static constexpr int kHeads = HeadTile::kHeads, kColumns = HeadTile::kColumns;
  static constexpr int kOthers = kSplits - 1;
  static constexpr int kWarpgroups = kSplits == 2 ? 1 : 2;  // that join
  // Of a warpgroup's columns, those that a split joins, at most.
  static constexpr int kSlots = kSplits == 2 ? kColumns : (kColumns + kSplits - 1) / kSplits;
  static constexpr uint32_t kColumnBytes = 128 * 16;  // eight dims of a head a thread
  static constexpr uint32_t kBytes = kOthers * kWarpgroups * kSlots * kColumnBytes;
  static_assert(kOthers * kHeads * sizeof(float2) <= sizeof(SharedStorage<HeadTile>::peer));

  // Of three splits, which joins a column.
  static __device__ __forceinline__ int joins(int column) { return column % kSplits; }

  // Which of the others `from` is at `to`.
  static __device__ __forceinline__ int place(int from, int to) { return from - (from > to); }

  static __device__ __forceinline__ PartStages<HeadTile> stages(KernelArgs const& args) {
    return PartStages<HeadTile>(args, kBytes);
  }

  // Where a thread finds its values of a column that came from the split at `place`. warpgroup: the
  // first (0) or second of those that have values.
  static __device__ __forceinline__ uint32_t address(SharedStorage<HeadTile>& shared,
                                                     KernelArgs const& args, int place,
                                                     int warpgroup, int column, int thread) {
    int const slot = kSplits == 2 ? column : (place * 2 + warpgroup) * kSlots + column / kSplits;
    return ptx::shared_address(shared.token[stages(args).first]) + slot * kColumnBytes +
           thread * 16;
  }

  // By one thread, before the cluster's barrier.
  static __device__ __forceinline__ void expect(SharedStorage<HeadTile>& shared, int split) {
    int const columns = kSplits == 2 ? kColumns : (kColumns - split + kOthers) / kSplits;
    ptx::mbarrier_init(&shared.sums_full, 1);
    ptx::mbarrier_init(&shared.parts_full, 1);
    ptx::fence_mbarrier_init();
    ptx::mbarrier_arrive_expect_tx(&shared.sums_full, kOthers * kHeads * sizeof(float2));
    ptx::mbarrier_arrive_expect_tx(&shared.parts_full,
                                   kOthers * kWarpgroups * columns * kColumnBytes);
  }

  // What each split's values of a head count in the output, by the thread that has the head's
  // reference and sum of this split. All splits come to the same bits.
  static __device__ __forceinline__ void weigh(SharedStorage<HeadTile>& shared,
                                               KernelArgs const& args, Tile const& tile, int head,
                                               float2 own) {
    int const split = tile.split;
#pragma unroll
    for (int i = 0; i < kOthers; ++i) {
      int const to = i + (i >= split);
      float2 const* const target = &shared.peer[place(split, to) * kHeads + head];
      ptx::store_async(ptx::map_to_rank(ptx::shared_address(target), to),
                       make_uint2(__float_as_uint(own.x), __float_as_uint(own.y)),
                       ptx::map_to_rank(ptx::shared_address(&shared.sums_full), to));
    }
    ptx::mbarrier_wait_cluster(&shared.sums_full, 0);
    float2 part[kSplits];
    float reference = -INFINITY;
#pragma unroll
    for (int from = 0; from < kSplits; ++from) {
      part[from] = from == split ? own : shared.peer[place(from, split) * kHeads + head];
      reference = fmaxf(reference, part[from].x);
    }
    float total = 0.f;
#pragma unroll
    for (float2& of_split : part) {
      of_split.x = ptx::exp2_flushed(of_split.x - (reference == -INFINITY ? 0.f : reference));
      total = fmaf(of_split.x, of_split.y, total);
    }
    int const of_row = tile.first_head + head;
    bool const exists = head < tile.heads;
    Normaliser const normaliser(args, reference, total, of_row, exists);
#pragma unroll
    for (int from = 0; from < kSplits; ++from) {
      float const weight = part[from].x * normaliser.factor;
      if (from == split) {  // its values are not scaled as parts are
        shared.output_factor[head] = weight * ptx::power_of_two(-part_exponent(args));
      } else {
        shared.peer[place(from, split) * kHeads + head].x = weight;
      }
    }
    ptx::store_global_4(args.lse + tile.row * args.num_heads + of_row,
                        __float_as_uint(normaliser.lse), exists && split == 0);
  }
};

}  // namespace dsa_ops::sparse_mla::fp8
