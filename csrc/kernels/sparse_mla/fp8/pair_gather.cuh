// The gathering warpgroup of a thread block of a pair: half of the tokens, for both blocks, and
// this block's probabilities for the other.
#pragma once
#include "device/ptx/cluster.cuh"
#include "kernels/sparse_mla/fp8/gather.cuh"
#include "kernels/sparse_mla/fp8/pair_traits.h"

namespace dsa_ops::sparse_mla::fp8 {

template <bool kReadsOnce>
struct PairGather {
  static constexpr uint16_t kBoth = 3;
  static constexpr uint32_t kWarpBytes = PairTile::kHeads * 32;  // of probabilities

  SharedStorage<PairTile>& shared;
  int const warp;
  RingPlace<PairTile::kStages> place;
  SlotPlace source;        // of the next probabilities to forward
  uint32_t forwarded = 0;  // blocks

  __device__ PairGather(SharedStorage<PairTile>& storage, int thread)
      : shared(storage), warp(__shfl_sync(0xFFFFFFFFu, thread >> 5, 0)), source{warp >> 1} {}

  // A step's probabilities of the own heads, and with the first what its references were raised by.
  __device__ __forceinline__ void forward() {
    ptx::mbarrier_wait(&shared.probability_ready[warp >> 1][forwarded & 1], forwarded >> 1 & 1);
    if (ptx::elect_one()) {
      // For warpgroup 0, which has no time for it: no product or copy reads its stores before.
      ptx::fence_proxy_async();
      uint32_t const rank = ptx::cluster_rank();
      auto& own = shared.probability[source.slot][warp & 1][rank];
      uint64_t* const full = &shared.probability_full[source.slot];
      uint32_t const peer_full = ptx::map_to_rank(ptx::shared_address(full), rank ^ 1);
      ptx::bulk_copy_to_cluster(ptx::map_to_rank(ptx::shared_address(own), rank ^ 1),
                                ptx::shared_address(own), kWarpBytes, peer_full);
      if (warp == 0) {
        auto& rescale = shared.rescale[forwarded & 1][rank];
        ptx::bulk_copy_to_cluster(ptx::map_to_rank(ptx::shared_address(&rescale), rank ^ 1),
                                  ptx::shared_address(&rescale), sizeof(rescale), peer_full);
      }
      ptx::mbarrier_arrive_expect_tx(full, kWarpBytes + (warp == 0 ? sizeof(PairRescale) : 0));
    }
    __syncwarp();
    source.template advance<2>();
    ++forwarded;
  }

  __device__ __forceinline__ void forward_rest() {
#pragma unroll 1
    while (forwarded < place.block) forward();
  }

  __device__ __forceinline__ void run(KernelArgs const& args, IndexList const& list,
                                      bool first_tile) {
    uint32_t lane;
    asm volatile("mov.u32 %0, %%laneid;" : "=r"(lane));
    int const offset = warp * kWarpRows + (lane & (kWarpRows - 1));
    int32_t entry = list.entry(0, offset);
    int32_t const* own_entry = list.entries + offset;
    int left = list.length - offset;
    asm volatile("" : "+l"(own_entry), "+r"(left));  // else worked out anew for every block
    uint64_t const policy = ptx::evict_first_policy();
    // Only now: the first entries are under way.
    if (first_tile) ptx::cluster_wait_acquire();
#pragma unroll 1
    for (int block = 0; block < list.num_blocks; ++block) {
      TokenSource<true> const source(args, list, entry);
      own_entry += kBlockTokens;
      left -= kBlockTokens;
      entry = ptx::load_global_4(own_entry, left > 0);
      int const stage = place.stage;
      uint32_t const rank = ptx::cluster_rank();
      ptx::mbarrier_wait(&shared.token_empty[stage], place.stage_parity ^ 1);
      uint64_t* const barrier = &shared.token_full[stage];
      if (ptx::elect_one()) {
        ptx::mbarrier_arrive_cluster(
            ptx::map_to_rank(ptx::shared_address(&shared.stage_free[stage]), rank ^ 1));
        shared.exists[stage][warp] = static_cast<uint16_t>(source.exists);
        ptx::mbarrier_arrive_expect_tx(barrier, kWarpRows * kTokenBytes);
      }
      __syncwarp();
      ptx::mbarrier_wait(&shared.stage_free[stage], place.stage_parity);
      int const first = rank * (kWarpRows / 2);
      uint8_t* const target = shared.token[stage] + (warp * kWarpRows + first) * kTokenPitch;
      uint64_t const address = reinterpret_cast<uint64_t>(source.address);
#pragma unroll 4
      for (int row = 0; row < kWarpRows / 2; ++row) {
        uint64_t const from = __shfl_sync(0xFFFFFFFFu, address, first + row);
        if (ptx::elect_one()) {
          auto const* const token = reinterpret_cast<void const*>(from);
          uint8_t* const to = target + row * kTokenPitch;
          if constexpr (kReadsOnce) {
            ptx::bulk_copy_multicast(to, token, kTokenBytes, barrier, kBoth, policy);
          } else {
            ptx::bulk_copy_multicast(to, token, kTokenBytes, barrier, kBoth);
          }
        }
      }
      // The stage of the next block falls free once the probabilities of two blocks ago have
      // been used.
      if (place.block >= 2) forward();
      place.advance();
    }
  }
};

}  // namespace dsa_ops::sparse_mla::fp8
