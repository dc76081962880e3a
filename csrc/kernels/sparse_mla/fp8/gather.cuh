// The gathering warpgroup of the FP8-cache kernel: one bulk copy per token, as it lies in the
// cache.
#pragma once
#include "device/ptx/copy.cuh"
#include "device/ptx/global.cuh"
#include "device/ptx/warp.cuh"
#include "device/ptx/warpgroup.cuh"
#include "kernels/sparse_mla/fp8/tile.cuh"

namespace dsa_ops::sparse_mla::fp8 {

// What an empty entry reads: zeros, with no branch around its copy.
static __device__ uint4 zero_token[kTokenBytes / 16];

// The address of an entry's token in the cache, or null when the entry is empty. kByProduct: the
// page without a division.
template <bool kByProduct>
__device__ __forceinline__ uint8_t const* token_address(KernelArgs const& args,
                                                        IndexList const& list, int32_t entry) {
  if (!list.is_key(entry)) return nullptr;
  uint32_t const index = static_cast<uint32_t>(entry);
  uint32_t const page =
      kByProduct ? static_cast<uint32_t>((uint64_t{index} * args.page_magic) >> args.page_shift)
                 : index / args.page_size;
  return args.kv + page * args.kv_stride_bytes +
         (index - page * args.page_size) * int64_t{kTokenBytes};
}

inline constexpr int kWarpRows = kBlockTokens / 4;  // tokens of a stage that a warp gathers

// By a warp: where a lane's entry has its token, and which of the warp's entries have one.
template <bool kByProduct = false>
struct TokenSource {
  uint8_t const* address;
  uint32_t exists;  // by lane; lanes 16 on hold the same entries as lanes 0 on

  __device__ __forceinline__ TokenSource(KernelArgs const& args, IndexList const& list,
                                         int32_t entry)
      : address(token_address<kByProduct>(args, list, entry)),
        exists(__ballot_sync(0xFFFFFFFFu, address != nullptr)) {
    if (address == nullptr) address = reinterpret_cast<uint8_t const*>(zero_token);
  }
};

// An entry of the first block of a thread block's only list, for a thread of warpgroup 3. Before
// any branch: so the load is under way while the code of the role is fetched, cold. Whether
// topk_lens leaves the entry in the list shows later.
__device__ __forceinline__ int32_t load_first_entry(KernelArgs const& args, int64_t row, int split,
                                                    int thread) {
  int const position = split * args.blocks_per_split * kBlockTokens + ((thread & 96) >> 1) +
                       (thread & (kWarpRows - 1));
  bool const loads = thread >= kThreads - 128 && position < args.top_k;
  return ptx::load_global_4(args.indices + row * args.indices_row_stride + position, loads);
}

// kReadsOnce: the L2 gives the tokens up first. A template, since a choice at every copy would cost
// more than the copy. With args.limits_copies at most a block and a half are under way.
template <bool kReadsOnce, class HeadTile>
__device__ void gather_tokens(SharedStorage<HeadTile>& shared, KernelArgs const& args,
                              IndexList const& list, RingPlace<HeadTile::kStages>& place,
                              bool first_tile, int thread, int32_t first_entry) {
  constexpr int kStages = HeadTile::kStages;
  int const warp = __shfl_sync(0xFFFFFFFFu, thread >> 5, 0);
  int const offset = warp * kWarpRows + (thread & (kWarpRows - 1));
  constexpr bool kHasFirst = kReadsOnce && HeadTile::kShortStart;
  int32_t entry = !kHasFirst ? list.entry(0, offset) : offset < list.length ? first_entry : -1;
  uint64_t const policy = ptx::evict_first_policy();
  // Only now: the first entries are under way.
  if (first_tile) ptx::named_barrier_sync(kBarriersReady, 256);
#pragma unroll 1
  for (int block = 0; block < list.num_blocks; ++block) {
    TokenSource<HeadTile::kShortStart> const source(args, list, entry);
    entry = list.entry(block + 1, offset);
    int const stage = place.stage;
    uint32_t const parity = place.stage_parity ^ 1;
    ptx::mbarrier_wait(&shared.token_empty[stage], parity);
    uint64_t* const barrier = &shared.token_full[stage];
    if (ptx::elect_one()) {
      shared.exists[stage][warp] = static_cast<uint16_t>(source.exists);
      ptx::mbarrier_arrive_expect_tx(barrier, kWarpRows * kTokenBytes);
    }
    uint8_t* const target = shared.token[stage] + warp * kWarpRows * kTokenPitch;
    uint64_t const address = reinterpret_cast<uint64_t>(source.address);
    auto const copy_rows = [&](int first, int last) {
#pragma unroll 4
      for (int row = first; row < last; ++row) {
        uint64_t const from = __shfl_sync(0xFFFFFFFFu, address, row);
        if (ptx::elect_one()) {
          auto const* const token = reinterpret_cast<void const*>(from);
          uint8_t* const to = target + row * kTokenPitch;
          if constexpr (kReadsOnce) {
            ptx::bulk_copy(to, token, kTokenBytes, barrier, policy);
          } else {
            ptx::bulk_copy(to, token, kTokenBytes, barrier);
          }
        }
      }
    };
    if constexpr (kReadsOnce && HeadTile::kHeads < 64) {
      copy_rows(0, kWarpRows / 2);
      if (args.limits_copies && block > 0) {
        ptx::mbarrier_wait(&shared.token_full[stage == 0 ? kStages - 1 : stage - 1],
                           stage == 0 ? parity : parity ^ 1);
      }
      copy_rows(kWarpRows / 2, kWarpRows);
    } else {
      copy_rows(0, kWarpRows);
    }
    place.advance();
  }
}

}  // namespace dsa_ops::sparse_mla::fp8
