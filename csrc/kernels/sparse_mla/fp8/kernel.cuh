// Sparse MLA over the FP8 paged cache.
#pragma once
#include "kernels/sparse_mla/fp8/gather.cuh"
#include "kernels/sparse_mla/fp8/query.cuh"
#include "kernels/sparse_mla/fp8/scores.cuh"
#include "kernels/sparse_mla/fp8/values.cuh"

namespace dsa_ops::sparse_mla::fp8 {

template <class HeadTile>
__device__ __forceinline__ void init_barriers(SharedStorage<HeadTile>& shared) {
  for (int stage = 0; stage < HeadTile::kStages; ++stage) {
    ptx::mbarrier_init(&shared.token_full[stage], 4);
    ptx::mbarrier_init(&shared.token_empty[stage], 12);
    ptx::mbarrier_init(&shared.value_scale_full[stage], 4);
  }
  for (int buffer = 0; buffer < 2; ++buffer) {
    ptx::mbarrier_init(&shared.scores_done[buffer], 4);
    ptx::mbarrier_init(&shared.probability_full[buffer], 4);
    ptx::mbarrier_init(&shared.probability_empty[buffer], 8);
  }
  ptx::fence_mbarrier_init();
}

// No block leaves before its peers have read its part.
__device__ __forceinline__ void leave_cluster() {
  ptx::cluster_arrive_relaxed();
  ptx::cluster_wait_acquire();
}

// Takes a warpgroup that joins nothing through both barriers of the cluster.
__device__ __forceinline__ void pass_cluster() {
  ptx::cluster_arrive_release();
  ptx::cluster_wait_acquire();
  leave_cluster();
}

template <class HeadTile>
__global__ void __launch_bounds__(kThreads, 1)
    sm90_fp8_sparse_mla_kernel(__grid_constant__ const KernelArgs args) {
  extern __shared__ uint8_t raw_storage[];
  auto& shared = *reinterpret_cast<SharedStorage<HeadTile>*>(raw_storage);
  // The warp index as a uniform value keeps the role branches and descriptors in uniform registers.
  int const warpgroup = __shfl_sync(0xFFFFFFFFu, threadIdx.x >> 7, 0);
  int const thread = threadIdx.x & 127;
  constexpr int kHeads = HeadTile::kHeads;
  constexpr int kConsumers = kThreads - 128;
  if (threadIdx.x == 0) init_barriers(shared);
  __syncthreads();
  if (warpgroup == 3) {
    ptx::setmaxnreg_dec<kGatherRegisters>();
    gather_tokens(shared, args, index_list(args, tile_of_block<kHeads>(args)), thread);
    if (args.num_splits > 1) pass_cluster();
  } else if (warpgroup == 0) {
    ptx::setmaxnreg_inc<kScoreRegisters>();
    ptx::named_barrier_sync(kQueryReady, kConsumers);
    Tile const tile = tile_of_block<kHeads>(args);
    ScoreWarpgroup<HeadTile> scores(shared, thread);
    scores.run(index_list(args, tile).num_blocks);
    scores.finish(args, tile_of_block<kHeads>(args));
    ptx::named_barrier_arrive(kFactorReady, kConsumers);
    if (args.num_splits > 1) pass_cluster();
  } else {
    ptx::setmaxnreg_inc<kValueRegisters>();
    Tile const tile = tile_of_block<kHeads>(args);
    load_query_tile(shared, args,
                    args.q + tile.row * args.q_row_stride + tile.first_head * args.q_head_stride,
                    tile.heads, static_cast<int>(threadIdx.x) - 128);
    ptx::fence_proxy_async();
    ptx::named_barrier_arrive(kQueryReady, kConsumers);
    ValueWarpgroup<HeadTile> values(shared, thread);
    values.run(index_list(args, tile).num_blocks);
    ptx::named_barrier_sync(kFactorReady, kConsumers);
    if (args.num_splits == 1) {
      values.store(args, tile_of_block<kHeads>(args));
    } else {
      values.store_part();
      ptx::cluster_arrive_release();
      ptx::cluster_wait_acquire();
      join_parts(shared, args, tile_of_block<kHeads>(args), static_cast<int>(threadIdx.x) - 128);
      leave_cluster();
    }
  }
}

}  // namespace dsa_ops::sparse_mla::fp8
