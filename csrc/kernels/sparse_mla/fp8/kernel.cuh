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

// A thread block takes tiles one after the other. The query of a tile is loaded, and its tokens are
// under way, while the last products of the tile before it run and its output is stored.
template <class HeadTile>
__device__ __forceinline__ void gather_tiles(SharedStorage<HeadTile>& shared,
                                             KernelArgs const& args, int thread) {
  constexpr int kHeads = HeadTile::kHeads;
  RingPlace<HeadTile::kStages> place;
#pragma unroll 1
  for (uint32_t number = first_tile(); number < args.num_tiles; number += tile_step()) {
    gather_tokens<false>(shared, args, index_list(args, tile_of<kHeads>(args, number)), place,
                         number == first_tile(), thread, -1);
  }
}

template <class HeadTile>
__device__ __forceinline__ void score_tiles(SharedStorage<HeadTile>& shared, KernelArgs const& args,
                                            int thread) {
  constexpr int kHeads = HeadTile::kHeads;
  ScoreWarpgroup<HeadTile, false> scores(shared, thread);
  uint32_t number = first_tile();
#pragma unroll 1
  for (;;) {
    scores.run(args, index_list(args, tile_of<kHeads>(args, number)).num_blocks);
    if (number != first_tile()) ptx::named_barrier_sync(kFactorFree, kThreads - 128);
    scores.template finish<Split::kNone>(args, tile_of<kHeads>(args, number));
    ptx::named_barrier_arrive(kFactorReady, kThreads - 128);
    number += tile_step();
    if (number >= args.num_tiles) return;
    // Every warp's products are over, and what `finish` reads has been read.
    ptx::named_barrier_sync(kScoreVote, 128);
    load_query_tile<128>(shared, args, tile_of<kHeads>(args, number), thread_index());
    ptx::fence_proxy_async();
    ptx::named_barrier_sync(kScoreVote, 128);
  }
}

template <class HeadTile>
__device__ __forceinline__ void value_tiles(SharedStorage<HeadTile>& shared, KernelArgs const& args,
                                            int thread) {
  constexpr int kHeads = HeadTile::kHeads;
  ValueWarpgroup<HeadTile> values(shared, thread);
  uint32_t number = first_tile();
#pragma unroll 1
  for (;;) {
    values.run(index_list(args, tile_of<kHeads>(args, number)).num_blocks);
    ptx::named_barrier_sync(kFactorReady, kThreads - 128);
    values.store(args, tile_of<kHeads>(args, number));
    number += tile_step();
    if (number >= args.num_tiles) return;
    ptx::named_barrier_arrive(kFactorFree, kThreads - 128);
  }
}

// kReadsOnce: tokens need not stay in the L2. Such a launch has a thread block for every tile and
// split; others have as many as run at a time.
template <class HeadTile, Split kSplit, bool kReadsOnce>
__global__ void __launch_bounds__(kThreads, 1)
    sm90_fp8_sparse_mla_kernel(__grid_constant__ const KernelArgs args) {
  extern __shared__ uint8_t raw_storage[];
  auto& shared = *reinterpret_cast<SharedStorage<HeadTile>*>(raw_storage);
  // The warp index as a uniform value keeps the role branches and descriptors in uniform registers.
  int const warpgroup = __shfl_sync(0xFFFFFFFFu, threadIdx.x >> 7, 0);
  int const thread = threadIdx.x & 127;
  constexpr int kConsumers = kThreads - 128;
  constexpr bool kPushes = kSplit == Split::kCluster;
  using Few = FewParts<HeadTile, kSplit == Split::kThree ? 3 : 2>;
  // Of two splits, each has one of warpgroups 1 and 2 join.
  constexpr int kFactorThreads = kSplit == Split::kTwo ? 256 : kConsumers;
  auto const tile = [&args] {
    return kReadsOnce ? only_tile<HeadTile::kHeads>(args)
                      : tile_of<HeadTile::kHeads>(args, first_tile());
  };
  int32_t first_entry = -1;
  if constexpr (kReadsOnce && HeadTile::kShortStart) {
    first_entry = load_first_entry(args, blockIdx.y, split_of_block(), threadIdx.x);
  }
  if constexpr (kSplit == Split::kScratch) ptx::launch_dependent_kernels();
  if (warpgroup == 3) {
    ptx::setmaxnreg_dec<kGatherRegisters>();
    if constexpr (!kReadsOnce) {
      gather_tiles(shared, args, thread);
    } else {
      IndexList const list = index_list(args, tile());
      RingPlace<HeadTile::kStages> place;
      gather_tokens<true>(shared, args, list, place, true, thread, first_entry);
      if constexpr (is_few(kSplit)) {
        Few::stages(args).wait_until_free(shared, list.num_blocks);
      } else if constexpr (kPushes) {
        PartStages<HeadTile>(args).wait_until_free(shared, list.num_blocks);
      }
      if constexpr (is_cluster(kSplit)) ptx::cluster_arrive_release();
    }
  } else if (warpgroup == 0) {
    if (threadIdx.x == 0) {
      init_barriers(shared);
      if constexpr (kPushes) expect_parts(shared, args, tile().split);
      if constexpr (is_few(kSplit)) Few::expect(shared, tile().split);
    }
    __syncwarp();
    ptx::named_barrier_arrive(kBarriersReady, 256);
    if constexpr (is_cluster(kSplit)) ptx::cluster_arrive_relaxed();
    ptx::setmaxnreg_inc<kScoreRegisters>();
    ptx::named_barrier_sync(kQueryReady, kConsumers);
    if constexpr (!kReadsOnce) {
      score_tiles(shared, args, thread);
    } else {
      ScoreWarpgroup<HeadTile, kSplit != Split::kNone> scores(shared, thread);
      scores.run(args, index_list(args, tile()).num_blocks);
      if constexpr (is_cluster(kSplit)) ptx::cluster_wait_acquire();
      scores.template finish<kSplit>(args, tile());
      if constexpr (kPushes) {
        if (thread < 32) weigh_parts(shared, args, tile(), thread);
      }
      if constexpr (kSplit != Split::kScratch) {
        ptx::named_barrier_arrive(kFactorReady, kFactorThreads);
      }
    }
  } else {
    if constexpr (is_cluster(kSplit)) ptx::cluster_arrive_relaxed();
    ptx::setmaxnreg_inc<kValueRegisters>();
    load_query_tile<256>(shared, args, tile(), static_cast<int>(threadIdx.x) - 128);
    ptx::fence_proxy_async();
    ptx::named_barrier_sync(kQueryReady, kConsumers);
    if constexpr (!kReadsOnce) {
      value_tiles(shared, args, thread);
    } else {
      ValueWarpgroup<HeadTile> values(shared, thread);
      values.run(index_list(args, tile()).num_blocks);
      if constexpr (kSplit == Split::kNone) {
        ptx::named_barrier_sync(kFactorReady, kConsumers);
        values.store(args, tile());
      } else if constexpr (kSplit == Split::kTwo) {
        ptx::cluster_wait_acquire();
        if (warpgroup - 1 == tile().split) {
          ptx::named_barrier_sync(kFactorReady, kFactorThreads);
          values.template join_columns<2>(args, tile());
        } else {
          values.template push_columns<2>(args, tile().split);
        }
      } else if constexpr (kSplit == Split::kThree) {
        ptx::cluster_wait_acquire();
        values.template push_columns<3>(args, tile().split);
        ptx::named_barrier_sync(kFactorReady, kFactorThreads);
        values.template join_columns<3>(args, tile());
      } else {
        if constexpr (kPushes) ptx::cluster_wait_acquire();
        values.template hand_over_part<kPushes>(args, tile().split);
        if constexpr (kPushes) {
          ptx::named_barrier_sync(kFactorReady, kConsumers);
          join_parts(shared, args, tile(), static_cast<int>(threadIdx.x) - 128);
        }
      }
    }
  }
}

}  // namespace dsa_ops::sparse_mla::fp8
