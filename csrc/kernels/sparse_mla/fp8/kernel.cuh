// Sparse MLA over the FP8 paged cache.
#pragma once
#include "device/ptx/grid.cuh"
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

// kReadsOnce: tokens need not stay in the L2.
template <class HeadTile, Split kSplit, bool kReadsOnce>
__global__ void __launch_bounds__(kThreads, 1)
    sm90_fp8_sparse_mla_kernel(__grid_constant__ const KernelArgs args) {
  extern __shared__ uint8_t raw_storage[];
  auto& shared = *reinterpret_cast<SharedStorage<HeadTile>*>(raw_storage);
  // The warp index as a uniform value keeps the role branches and descriptors in uniform registers.
  int const warpgroup = __shfl_sync(0xFFFFFFFFu, threadIdx.x >> 7, 0);
  int const thread = threadIdx.x & 127;
  constexpr int kHeads = HeadTile::kHeads;
  constexpr int kConsumers = kThreads - 128;
  constexpr bool kPushes = kSplit == Split::kCluster;
  if constexpr (kSplit == Split::kScratch) ptx::launch_dependent_kernels();
  if (warpgroup == 3) {
    ptx::setmaxnreg_dec<kGatherRegisters>();
    IndexList const list = index_list(args, tile_of_block<kHeads>(args));
    gather_tokens<kReadsOnce>(shared, args, list, thread);
    if constexpr (kPushes) {
      PartStages<HeadTile>(args).wait_until_free(shared, list.num_blocks);
      ptx::cluster_arrive_release();
    }
  } else if (warpgroup == 0) {
    if (threadIdx.x == 0) {
      init_barriers(shared);
      if constexpr (kPushes) expect_parts(shared, args, tile_of_block<kHeads>(args).split);
    }
    __syncwarp();
    ptx::named_barrier_arrive(kBarriersReady, 256);
    if constexpr (kPushes) ptx::cluster_arrive_relaxed();
    ptx::setmaxnreg_inc<kScoreRegisters>();
    ptx::named_barrier_sync(kQueryReady, kConsumers);
    Tile const tile = tile_of_block<kHeads>(args);
    ScoreWarpgroup<HeadTile> scores(shared, thread);
    scores.run(index_list(args, tile).num_blocks);
    if constexpr (kPushes) ptx::cluster_wait_acquire();
    scores.template finish<kSplit>(args, tile_of_block<kHeads>(args));
    ptx::named_barrier_arrive(kFactorReady, kConsumers);
  } else {
    if constexpr (kPushes) ptx::cluster_arrive_relaxed();
    ptx::setmaxnreg_inc<kValueRegisters>();
    Tile const tile = tile_of_block<kHeads>(args);
    load_query_tile(shared, args,
                    args.q + tile.row * args.q_row_stride + tile.first_head * args.q_head_stride,
                    tile.heads, static_cast<int>(threadIdx.x) - 128);
    ptx::fence_proxy_async();
    ptx::named_barrier_sync(kQueryReady, kConsumers);
    ValueWarpgroup<HeadTile> values(shared, thread);
    values.run(index_list(args, tile).num_blocks);
    ptx::named_barrier_sync(kFactorReady, kConsumers);
    if constexpr (kSplit != Split::kNone) {
      if constexpr (kPushes) ptx::cluster_wait_acquire();
      values.template hand_over_part<kPushes>(args, tile_of_block<kHeads>(args).split);
      if constexpr (kPushes) {
        join_parts(shared, args, tile_of_block<kHeads>(args), static_cast<int>(threadIdx.x) - 128);
      }
    } else {
      values.store(args, tile_of_block<kHeads>(args));
    }
  }
}

}  // namespace dsa_ops::sparse_mla::fp8
