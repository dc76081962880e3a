// Split::kColumns: splits joined in a cluster, as Split::kCluster does, but for few splits, of any
// number, and in registers. The columns of accumulators (see values.cuh), those of warpgroup 1 and
// then those of warpgroup 2, are shared out: a split joins as many neighbouring ones as any other, or
// one fewer. Its threads get from the other splits what they have themselves, of the same heads and
// dims, so that a thread's 16 bytes of a column go to one place.
#pragma once
#include "kernels/sparse_mla/fp8/parts.cuh"

namespace dsa_ops::sparse_mla::fp8 {

template <class HeadTile>
struct ColumnParts {
  static constexpr int kHeads = HeadTile::kHeads, kColumns = HeadTile::kColumns;
  static constexpr int kBoth = 2 * kColumns;          // of warpgroups 1 and 2; a power of two
  static constexpr uint32_t kColumnBytes = 128 * 16;  // eight dims of a head a thread

  int const num_splits, split;
  int const slots;  // columns that a split joins, at most

  __device__ __forceinline__ ColumnParts(KernelArgs const& args, int own_split)
      : num_splits(args.num_splits), split(own_split), slots(first_column(1)) {}

  // Of those that a split joins.
  __device__ __forceinline__ int first_column(int of_split) const {
    return (of_split * kBoth + num_splits - 1) / num_splits;
  }
  // Which split joins a column.
  __device__ __forceinline__ int joins(int column) const { return column * num_splits / kBoth; }

  __device__ __forceinline__ PartStages<HeadTile> stages(KernelArgs const& args) const {
    return PartStages<HeadTile>(args, (num_splits - 1) * slots * kColumnBytes);
  }

  // By one thread, before the cluster's barrier.
  __device__ __forceinline__ void expect(SharedStorage<HeadTile>& shared) const {
    ptx::mbarrier_init(&shared.sums_full, 1);
    ptx::mbarrier_init(&shared.parts_full, 1);
    ptx::fence_mbarrier_init();
    int const others = num_splits - 1, columns = first_column(split + 1) - first_column(split);
    ptx::mbarrier_arrive_expect_tx(&shared.sums_full, others * kHeads * sizeof(float2));
    ptx::mbarrier_arrive_expect_tx(&shared.parts_full, others * columns * kColumnBytes);
  }

  // Which of the others `from` is at `to`.
  static __device__ __forceinline__ int place(int from, int to) { return from - (from > to); }

  // What each split's values of a head count in the output, by the thread that has the head's
  // reference and sum of this split. All splits come to the same bits.
  __device__ __forceinline__ void weigh(SharedStorage<HeadTile>& shared, KernelArgs const& args,
                                        Tile const& tile, int head, float2 own) const {
#pragma unroll 1
    for (int to = 0; to < num_splits; ++to) {
      if (to == split) continue;
      float2 const* const target = &shared.peer[place(split, to) * kHeads + head];
      ptx::store_async(ptx::map_to_rank(ptx::shared_address(target), to),
                       make_uint2(__float_as_uint(own.x), __float_as_uint(own.y)),
                       ptx::map_to_rank(ptx::shared_address(&shared.sums_full), to));
    }
    ptx::mbarrier_wait_cluster(&shared.sums_full, 0);
    float reference = own.x;
#pragma unroll 1
    for (int i = 0; i < num_splits - 1; ++i) {
      reference = fmaxf(reference, shared.peer[i * kHeads + head].x);
    }
    float const finite = reference == -INFINITY ? 0.f : reference;
    float total = 0.f;
#pragma unroll 1
    for (int from = 0; from < num_splits; ++from) {
      float2 const part = from == split ? own : shared.peer[place(from, split) * kHeads + head];
      total = fmaf(ptx::exp2_flushed(part.x - finite), part.y, total);
    }
    int const of_row = tile.first_head + head;
    bool const exists = head < tile.heads;
    Normaliser const normaliser(args, reference, total, of_row, exists);
#pragma unroll 1
    for (int i = 0; i < num_splits - 1; ++i) {
      float& weight = shared.peer[i * kHeads + head].x;
      weight = ptx::exp2_flushed(weight - finite) * normaliser.factor;
    }
    // The own values are not scaled as parts are.
    shared.output_factor[head] = ptx::exp2_flushed(own.x - finite) * normaliser.factor *
                                 ptx::power_of_two(-part_exponent(args));
    ptx::store_global_4(args.lse + tile.row * args.num_heads + of_row,
                        __float_as_uint(normaliser.lse), exists && split == 0);
  }
};

}  // namespace dsa_ops::sparse_mla::fp8
