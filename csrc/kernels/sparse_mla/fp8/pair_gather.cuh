// The gathering warpgroups of a pair: each fetches half of the tokens, for both thread blocks.
#pragma once
#include "device/ptx/cluster.cuh"
#include "kernels/sparse_mla/fp8/gather.cuh"
#include "kernels/sparse_mla/fp8/pair_traits.h"

namespace dsa_ops::sparse_mla::fp8 {

template <bool kReadsOnce>
__device__ void gather_half(SharedStorage<PairTile>& shared, KernelArgs const& args,
                            IndexList const& list, RingPlace<PairTile::kStages>& place,
                            bool first_tile, int thread) {
  constexpr int kRows = kBlockTokens / 4;  // of a warp
  constexpr uint16_t kBoth = 3;
  uint32_t const rank = ptx::cluster_rank();
  int const warp = __shfl_sync(0xFFFFFFFFu, thread >> 5, 0);
  int const lane = thread & 31;
  int const offset = warp * kRows + (lane & (kRows - 1));
  int32_t entry = list.entry(0, offset);
  uint64_t const policy = ptx::evict_first_policy();
  // Only now: the first entries are under way.
  if (first_tile) ptx::cluster_wait_acquire();
#pragma unroll 1
  for (int block = 0; block < list.num_blocks; ++block) {
    uint8_t const* source = token_address(args, list, entry);
    uint32_t const exists = __ballot_sync(0xFFFFFFFFu, source != nullptr);
    if (source == nullptr) source = reinterpret_cast<uint8_t const*>(zero_token);
    entry = list.entry(block + 1, offset);
    int const stage = place.stage;
    uint32_t const parity = place.stage_parity ^ 1;
    ptx::mbarrier_wait(&shared.token_empty[stage], parity);
    uint64_t* const barrier = &shared.token_full[stage];
    if (ptx::elect_one()) {
      ptx::mbarrier_arrive_cluster(
          ptx::map_to_rank(ptx::shared_address(&shared.stage_free[stage]), rank ^ 1));
      shared.exists[stage][warp] = static_cast<uint16_t>(exists);
      ptx::mbarrier_arrive_expect_tx(barrier, kRows * kTokenBytes);
    }
    __syncwarp();
    ptx::mbarrier_wait_cluster(&shared.stage_free[stage], parity ^ 1);
    uint8_t* const target = shared.token[stage] + (warp * kRows + rank * kRows / 2) * kTokenPitch;
    uint64_t const address = reinterpret_cast<uint64_t>(source);
#pragma unroll 4
    for (int row = 0; row < kRows / 2; ++row) {
      uint64_t const from = __shfl_sync(0xFFFFFFFFu, address, row + rank * kRows / 2);
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
    place.advance();
  }
}

}  // namespace dsa_ops::sparse_mla::fp8
