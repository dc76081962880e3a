// A histogram of 2,048 bins in shared memory, and the search for the bin of the rank-th best value
// by one warp: 64 sums of 32 bins each lead to the 32 bins that matter. Some lane always crosses,
// as the bins hold at least `rank` values.
#pragma once
#include <cstdint>

#include "kernels/topk/block_scan.cuh"
#include "kernels/topk/traits.h"

namespace dsa_ops::topk_sm90 {

__device__ __forceinline__ void clear_histogram(uint32_t* histogram, int thread, int num_threads) {
  uint4* const quads = reinterpret_cast<uint4*>(histogram);
  for (int i = thread; i < kBins / 4; i += num_threads) quads[i] = make_uint4(0, 0, 0, 0);
}

__device__ __forceinline__ void sum_coarse_bins(uint32_t* coarse, uint32_t const* histogram) {
  static_assert(kCoarseBins % kWarps == 0);
  int const lane = threadIdx.x % 32;
  int const warp = threadIdx.x / 32;
#pragma unroll
  for (int i = 0; i < kCoarseBins / kWarps; ++i) {
    int const index = i * kWarps + warp;
    uint32_t const sum = __reduce_add_sync(kAllLanes, histogram[index * 32 + lane]);
    if (lane == 0) coarse[index] = sum;
  }
}

// Lane 0 holds the highest bins, so that sums over lower lanes count better values.
__device__ __forceinline__ int coarse_pair_of(int lane) { return 2 * (31 - lane); }
__device__ __forceinline__ int bin_of(int coarse, int lane) { return coarse * 32 + 31 - lane; }

struct CoarseHit {
  int lane;        // whose pair of coarse bins holds the rank-th best
  bool in_high;    // in that lane: it is the higher bin of the pair
  int coarse;      // the coarse bin
  uint32_t above;  // values in the bins above it
};

__device__ __forceinline__ CoarseHit find_coarse(uint2 pair, uint32_t rank, int lane) {
  uint32_t const inclusive = warp_inclusive_sum(pair.x + pair.y, lane);
  uint32_t const exclusive = inclusive - pair.x - pair.y;
  CoarseHit hit;
  hit.lane = __ffs(__ballot_sync(kAllLanes, inclusive >= rank)) - 1;
  hit.in_high = exclusive + pair.y >= rank;
  hit.above = __shfl_sync(kAllLanes, hit.in_high ? exclusive : exclusive + pair.y, hit.lane);
  hit.coarse = __shfl_sync(kAllLanes, coarse_pair_of(lane) + (hit.in_high ? 1 : 0), hit.lane);
  return hit;
}

struct FineHit {
  int lane;        // whose bin holds the rank-th best
  uint32_t above;  // values in the bins above this lane's
};

__device__ __forceinline__ FineHit find_fine(uint32_t inside, uint32_t above, uint32_t rank,
                                             int lane) {
  uint32_t const above_or_in = above + warp_inclusive_sum(inside, lane);
  return FineHit{__ffs(__ballot_sync(kAllLanes, above_or_in >= rank)) - 1, above_or_in - inside};
}

}  // namespace dsa_ops::topk_sm90
