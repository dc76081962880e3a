// Sparse MLA of 65 to 128 heads over the FP8 paged cache: a cluster of two thread blocks takes
// rows.
#pragma once
#include "kernels/sparse_mla/fp8/pair_gather.cuh"
#include "kernels/sparse_mla/fp8/pair_query.cuh"
#include "kernels/sparse_mla/fp8/pair_scores.cuh"
#include "kernels/sparse_mla/fp8/pair_values.cuh"

namespace dsa_ops::sparse_mla::fp8 {

__device__ __forceinline__ void init_pair_barriers(SharedStorage<PairTile>& shared) {
  for (int stage = 0; stage < PairTile::kStages; ++stage) {
    ptx::mbarrier_init(&shared.token_full[stage], 4);
    ptx::mbarrier_init(&shared.token_empty[stage], 12);
    ptx::mbarrier_init(&shared.stage_free[stage], 4);
    ptx::mbarrier_init(&shared.value_scale_full[stage], 4);
  }
  ptx::mbarrier_init(&shared.scores_done[0], 4);
  ptx::mbarrier_init(&shared.scores_done[1], 4);
  for (int slot = 0; slot < kPairSlots; ++slot) {
    ptx::mbarrier_init(&shared.probability_full[slot], 2);
    ptx::mbarrier_init(&shared.probability_empty[slot], 16);
  }
  for (auto& half : shared.probability_ready) {
    for (uint64_t& ready : half) ptx::mbarrier_init(&ready, 2);
  }
  ptx::mbarrier_init(&shared.factor_full, 2);
  ptx::mbarrier_init(&shared.factor_empty, 16);
  ptx::fence_mbarrier_init();
}

template <bool kReadsOnce>
__device__ __forceinline__ void gather_pairs(SharedStorage<PairTile>& shared,
                                             KernelArgs const& args, int thread) {
  PairGather<kReadsOnce> gather(shared, thread);
#pragma unroll 1
  for (uint32_t row = first_pair(); row < args.num_rows; row += pair_step()) {
    gather.run(args, index_list(args, pair_tile_of(args, row)), row == first_pair());
  }
  gather.forward_rest();
}

__device__ __forceinline__ void score_pairs(SharedStorage<PairTile>& shared, KernelArgs const& args,
                                            int thread) {
  PairScores scores(shared, thread);
  uint32_t row = first_pair();
#pragma unroll 1
  for (;;) {
    scores.run(args, index_list(args, pair_tile_of(args, row)).num_blocks);
    uint32_t const next_row = row + pair_step();
    PairQuery query;
    Tile next = pair_tile_of(args, next_row);
    if (next_row >= args.num_rows) next.heads = 0;
    query.start(args, next, thread_index());
    scores.finish(args, pair_tile_of(args, row));
    row = next_row;
    if (row >= args.num_rows) return;
    // Every warp's products are over, and what `finish` reads has been read.
    ptx::named_barrier_sync(kScoreVote, 128);
    query.complete(shared, args, pair_tile_of(args, row), thread_index());
    ptx::fence_proxy_async();
    ptx::named_barrier_sync(kScoreVote, 128);
  }
}

__device__ __forceinline__ void value_pairs(SharedStorage<PairTile>& shared, KernelArgs const& args,
                                            int thread) {
  PairValues values(shared, thread);
#pragma unroll 1
  for (uint32_t row = first_pair(); row < args.num_rows; row += pair_step()) {
    values.run(index_list(args, pair_tile_of(args, row)).num_blocks);
    values.store(args, row);
  }
}

template <bool kReadsOnce>
__global__ void __launch_bounds__(kThreads, 1)
    sm90_fp8_sparse_mla_pair_kernel(__grid_constant__ const KernelArgs args) {
  extern __shared__ uint8_t raw_storage[];
  auto& shared = *reinterpret_cast<SharedStorage<PairTile>*>(raw_storage);
  int const warpgroup = __shfl_sync(0xFFFFFFFFu, threadIdx.x >> 7, 0);
  int const thread = threadIdx.x & 127;
  if (warpgroup == 3) {
    ptx::cluster_arrive_relaxed();
    ptx::setmaxnreg_dec<kGatherRegisters>();
    gather_pairs<kReadsOnce>(shared, args, thread);
  } else if (warpgroup == 0) {
    if (threadIdx.x == 0) init_pair_barriers(shared);
    __syncwarp();
    ptx::cluster_arrive_release();
    ptx::setmaxnreg_inc<kPairScoreRegisters>();
    ptx::named_barrier_sync(kQueryReady, kThreads - 128);
    ptx::cluster_wait_acquire();
    score_pairs(shared, args, thread);
  } else {
    ptx::cluster_arrive_relaxed();
    ptx::setmaxnreg_inc<kPairValueRegisters>();
    load_query_tile<256>(shared, args, pair_tile_of(args, first_pair()),
                         static_cast<int>(threadIdx.x) - 128);
    ptx::fence_proxy_async();
    ptx::named_barrier_sync(kQueryReady, kThreads - 128);
    ptx::cluster_wait_acquire();
    value_pairs(shared, args, thread);
  }
  // The other block may still write here and arrive on barriers.
  ptx::cluster_arrive_release();
  ptx::cluster_wait_acquire();
}

}  // namespace dsa_ops::sparse_mla::fp8
