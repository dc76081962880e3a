// The rank-th best of a block's values, by counting them in 2,048 bins at a time.
#pragma once
#include <cstdint>

#include "device/ptx/warp.cuh"
#include "kernels/topk/block_scan.cuh"
#include "kernels/topk/storage.h"
#include "kernels/topk/traits.h"

namespace dsa_ops::topk_sm90 {

template <int kThreads>
__device__ __forceinline__ void clear_bins(BinStorage& shared) {
  for (int i = opaque(threadIdx.x); i < kBins / 4; i += kThreads) {
    reinterpret_cast<uint4*>(shared.bins)[i] = make_uint4(0, 0, 0, 0);
  }
}

// Where the rank-th best of the values in four neighbouring bins lies.
__device__ __forceinline__ Place place_in_quad(uint4 const& counts, uint32_t first_bin,
                                               uint32_t rank) {
  uint32_t const upper = counts.z + counts.w;
  bool const in_upper = rank <= upper;
  uint32_t const before = in_upper ? 0 : upper;
  uint32_t const better = in_upper ? counts.w : counts.y;
  uint32_t const worse = in_upper ? counts.z : counts.x;
  uint32_t const bin = first_bin + (in_upper ? 2 : 0);
  return rank <= before + better ? Place{bin + 1, rank - before, better}
                                 : Place{bin, rank - before - better, worse};
}

// By all threads: where the low_rank-th and the high_rank-th best value lie, high_rank <= low_rank.
// A rank that is 0 or above the number of values leaves its place as it is. One barrier; a named
// one of the searching warps would do, but racecheck loses track of the block's barriers behind one
// of those. kUnroll: bins looked at at once where the place is; registers for it are not
// everywhere.
template <int kThreads, int kUnroll = 2>
__device__ __forceinline__ void find_places(BinStorage& shared, uint32_t low_rank,
                                            uint32_t high_rank) {
  constexpr int kSearchers = kThreads < kMaxSearchers ? kThreads : kMaxSearchers;
  constexpr int kBinsPerThread = kBins / kSearchers;
  bool const searches = threadIdx.x < kSearchers;
  int const lane = threadIdx.x % 32;
  int const warp = threadIdx.x / 32;
  int const first = kBins - kBinsPerThread - kBinsPerThread * threadIdx.x;
  uint32_t sum = 0;
  uint32_t inclusive = 0;
  uint4 quad;
  if (searches) {
#pragma unroll
    for (int i = 0; i < kBinsPerThread; i += 4) {
      quad = *reinterpret_cast<uint4 const*>(&shared.bins[first + i]);
      sum += quad.x + quad.y + quad.z + quad.w;
    }
    inclusive = ptx::warp_inclusive_sum(sum);
    if (lane == 31) shared.warp_sums[warp] = inclusive;
  }
  __syncthreads();
  if (!searches) return;
  uint32_t const above =
      inclusive - sum + __reduce_add_sync(kAllLanes, lane < warp ? shared.warp_sums[lane] : 0);
  auto const place = [&](Place& place, uint32_t rank) {
    if (above >= rank || above + sum < rank) return;
    if constexpr (kBinsPerThread == 4 && kUnroll == kBinsPerThread) {
      place = place_in_quad(quad, first, rank - above);
      return;
    }
    uint32_t before = above;
    Place found{};
#pragma unroll kUnroll
    for (int i = kBinsPerThread - 1; i >= 0; --i) {  // the last that begins below the rank
      uint32_t const count = shared.bins[first + i];
      if (before < rank) found = Place{static_cast<uint32_t>(first + i), before, count};
      before += count;
    }
    place = Place{found.bin, rank - found.rank, found.inside};
  };
  place(shared.high, high_rank);
  place(shared.low, low_rank);
}

// Values low ... low + 2^shift - 1 and the rank, among them, of the one sought.
struct Bin {
  uint32_t low;
  int shift;
  uint32_t rank;
  uint32_t inside;
};

// Narrows a bin, 11 bits a step, until stop(bin) or it is a single value. visit(count) calls
// count(value) for the values of this thread. The first step also places the high_rank-th best,
// unless that is 0. Barriers of a step: the cleared bins; the counts; the search; the result.
template <int kThreads, class Visit, class Stop>
__device__ __forceinline__ Bin narrow(BinStorage& shared, Bin bin, uint32_t high_rank,
                                      Visit const& visit, Stop const& stop) {
#pragma unroll 1
  while (bin.shift > 0 && !stop(bin)) {
    int const shift = max(bin.shift - kBinsLog2, 0);
    uint32_t const width = ~0u >> (32 - bin.shift);
    clear_bins<kThreads>(shared);
    __syncthreads();
    visit([&](uint32_t value) {
      uint32_t const offset = value - bin.low;
      if (offset <= width) atomicAdd(&shared.bins[offset >> shift], 1u);
    });
    __syncthreads();
    find_places<kThreads>(shared, bin.rank, high_rank);
    __syncthreads();
    high_rank = 0;
    Place const place = shared.low;
    bin = Bin{bin.low + (place.bin << shift), shift, place.rank, place.inside};
  }
  return bin;
}

}  // namespace dsa_ops::topk_sm90
