// An interval of keys that probably holds a row's k-th best, guessed from a sample.
#pragma once
#include <cstdint>

#include "kernels/topk/bins.cuh"
#include "kernels/topk/cluster_select.cuh"
#include "kernels/topk/keys.cuh"

namespace dsa_ops::topk_sm90 {

// Before the barrier that the caller has between this and the guess.
template <int kThreads>
__device__ __forceinline__ void prepare_guess(BinStorage& shared) {
  clear_bins<kThreads>(shared);
  if (threadIdx.x == 0) {
    shared.low = Place{0, 0, 0};
    shared.high = Place{kBins - 1, 0, 0};
  }
}

// From samples (kNoKey is none) of which the whole block has `density` for each key of the row.
// Barriers: the counts; the search; the places.
template <int kThreads, int kCount>
__device__ __forceinline__ Interval guess_interval(BinStorage& shared,
                                                   uint32_t const (&samples)[kCount], int top_k,
                                                   float density) {
  constexpr int kShift = 32 - kBinsLog2;
  constexpr uint32_t kLastInBin = (1u << kShift) - 1;
  // Beyond four powers of two a guess is none: ReLU zeros under the best scores, for example.
  constexpr uint32_t kMaxBins = 16;
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    if (samples[i] != kNoKey) atomicAdd(&shared.bins[samples[i] >> kShift], 1u);
  }
  __syncthreads();
  float const expected = top_k * density;
  float const margin = 3.0f * __fsqrt_rn(expected) + 2.0f;
  find_places(shared, static_cast<uint32_t>(expected + margin),
              static_cast<uint32_t>(fmaxf(expected - margin, 1.0f)));
  __syncthreads();
  uint32_t const high = shared.high.bin;
  uint32_t const low = max(shared.low.bin, high - min(high, kMaxBins - 1));
  uint32_t const low_key = max(low << kShift, 1);
  return Interval{low_key, ~low_key, round_shift((high << kShift | kLastInBin) - low_key)};
}

}  // namespace dsa_ops::topk_sm90
