// The pages of an owned row that one warpgroup scores, in turns, through a ring of its own.
//
// Barriers of a warpgroup's ring:
//   key_full[]   1 arrival (the feeding lane, with the bytes of a page that is present)
//   key_empty[]  an arrival of every lane (they read scales); the feeding warp waits
#pragma once
#include <cstdint>

#include "device/ptx/copy.cuh"
#include "device/ptx/mbarrier.cuh"
#include "device/ptx/warp.cuh"
#include "kernels/indexer/args.h"
#include "kernels/indexer/scoring.cuh"
#include "kernels/topk/owned/traits.h"

namespace dsa_ops::topk_sm90::owned {

// Turns spread over the row, whatever its length: the first ones resemble it. Turn t of a
// warpgroup is of page 4 * reverse(t) + warpgroup, if the row has that page.
__device__ __forceinline__ int32_t page_of_turn(uint32_t turn, int warpgroup) {
  return static_cast<int32_t>(__brev(turn) >> 27) * kWarpgroups + warpgroup;
}

// A warpgroup's turns, a bit each, the next one lowest. Each lane calls for its own turn.
__device__ __forceinline__ uint32_t turns_of_row(int32_t pages, int warpgroup, int lane) {
  return __ballot_sync(~0u, page_of_turn(lane, warpgroup) < pages);
}
__device__ __forceinline__ uint32_t take_turn(uint32_t& turns) {
  uint32_t const turn = __ffs(turns) - 1;
  turns &= turns - 1;
  return turn;
}

// Feeds the ring of a warpgroup; by a warp.
template <class Tile>
class PageFeed {
 public:
  // Page ids do not wait for the row's length.
  __device__ __forceinline__ PageFeed(indexer::PagedArgs const& args, SharedStorage<Tile>& shared,
                                      int32_t row, int warpgroup, int lane)
      : args_(args), shared_(shared), warpgroup_(warpgroup) {
    int32_t const page = page_of_turn(lane, warpgroup);
    int32_t const* const table = args.block_table + row * args.block_table_stride;
    bool const exists = page * indexer::kPageKeys < args.lengths.max_length;
    page_id_ = exists ? __ldg(table + page) : -1;
    policy_ = ptx::evict_first_policy();
  }
  // Loads the first `count` of the turns left.
  __device__ __forceinline__ void load(uint32_t& turns, int32_t count) {
#pragma unroll 1
    for (int32_t i = 0; i < count && turns != 0; ++i) {
      ptx::mbarrier_wait(&shared_.key_empty[warpgroup_][ring_.stage], ring_.phase ^ 1);
      load_page(__shfl_sync(~0u, page_id_, take_turn(turns)));
      ring_.advance();
    }
  }

 private:
  __device__ __forceinline__ void load_page(int32_t page) {
    bool const present = page >= 0 && page < args_.num_pages;
    if (ptx::elect_one()) {
      uint64_t* const full = &shared_.key_full[warpgroup_][ring_.stage];
      shared_.page_present[warpgroup_][ring_.stage] = present;
      ptx::mbarrier_arrive_expect_tx(full, present ? indexer::kPageBytes : 0);
      if (present) {
        ptx::tma_load_3d(shared_.keys[warpgroup_][ring_.stage], &args_.key_map, full, 0, 0, page,
                         policy_);
        ptx::bulk_copy(
            shared_.scales[warpgroup_][ring_.stage],
            args_.index_cache + page * args_.page_stride_bytes + indexer::kPageScalesOffset,
            indexer::kPageKeys * sizeof(float), full, policy_);
      }
    }
    __syncwarp();
  }

  indexer::PagedArgs const& args_;
  SharedStorage<Tile>& shared_;
  int const warpgroup_;
  int32_t page_id_;  // of the lane's turn
  uint64_t policy_;
  indexer::RingPosition<kStages> ring_;
};

}  // namespace dsa_ops::topk_sm90::owned
