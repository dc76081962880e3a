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

// Bins of samples: 16 for each power of two from 2^-32 to 2^32, either sign.
struct GuessBins {
  static constexpr int kShift = 19;
  static constexpr uint32_t kSignBins = kBins / 2;
  static constexpr uint32_t kSmallest = (127 - 32) << 23;

  // Smaller magnitudes, greater ones: in the sign's first bin, in its last.
  static __device__ __forceinline__ uint32_t of(uint32_t key) {
    uint32_t const magnitude = (key & kZeroKey ? key : ~key) & ~kZeroKey;
    uint32_t const bin = min((max(magnitude, kSmallest) - kSmallest) >> kShift, kSignBins - 1);
    return key & kZeroKey ? kSignBins + bin : kSignBins - 1 - bin;
  }
  // The least key of a bin; the least of all is that of no key.
  static __device__ __forceinline__ uint32_t low(uint32_t bin) {
    if (bin == 0) return 1;
    if (bin == kSignBins) return kZeroKey;
    uint32_t const magnitude =
        bin > kSignBins ? bin - kSignBins : kSignBins - bin;  // where it ends, below zero
    uint32_t const bits = kSmallest + (magnitude << kShift);
    return bin > kSignBins ? kZeroKey | bits : ~(kZeroKey | bits) + 1;
  }
};

// The one key that the samples in a bin have, or kNoKey if they differ. Takes the place of the
// bins. One barrier.
template <int kThreads, int kCount>
__device__ __forceinline__ uint32_t only_key(BinStorage& shared, uint32_t const (&samples)[kCount],
                                             uint32_t bin) {
  constexpr int kWarps = kThreads / 32;
  int const lane = threadIdx.x % 32;
  uint32_t lowest = ~0u;
  uint32_t highest = kNoKey;
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    if (samples[i] != kNoKey && GuessBins::of(samples[i]) == bin) {
      lowest = min(lowest, samples[i]);
      highest = max(highest, samples[i]);
    }
  }
  lowest = __reduce_min_sync(kAllLanes, lowest);
  highest = __reduce_max_sync(kAllLanes, highest);
  if (lane == 0) {
    shared.bins[threadIdx.x / 32] = lowest;
    shared.bins[kWarps + threadIdx.x / 32] = highest;
  }
  __syncthreads();
  lowest = __reduce_min_sync(kAllLanes, shared.bins[lane % kWarps]);
  highest = __reduce_max_sync(kAllLanes, shared.bins[kWarps + lane % kWarps]);
  return lowest == highest ? lowest : kNoKey;
}

// From samples (kNoKey is none) of which the whole block has `density` for each key of the row.
// Calls samples_here() once all of them are. Barriers: the counts; the search; the places; the
// extremes, if a bin holds both places.
template <int kThreads, int kCount, class SamplesHere>
__device__ __forceinline__ Interval guess_interval(BinStorage& shared,
                                                   uint32_t const (&samples)[kCount], int top_k,
                                                   float density, SamplesHere const& samples_here) {
  // Beyond four powers of two a guess is none: ReLU zeros under the best scores, for example.
  constexpr uint32_t kMaxBins = 64;
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    if (samples[i] != kNoKey) atomicAdd(&shared.bins[GuessBins::of(samples[i])], 1u);
  }
  __syncthreads();
  samples_here();
  float const expected = top_k * density;
  float const deviation = __fsqrt_rn(expected);
  // A k-th best above the interval costs a round, one below it the count of all keys.
  find_places<kThreads, 4>(shared, static_cast<uint32_t>(expected + 3.0f * deviation + 2.0f),
                           static_cast<uint32_t>(fmaxf(expected - 2.5f * deviation, 1.0f)));
  __syncthreads();
  uint32_t const high = shared.high.bin;
  if (shared.low.bin == high) {
    // A crowd of equal keys is an interval of its own, all keys above it share its last bin.
    uint32_t const crowd = only_key<kThreads>(shared, samples, high);
    if (crowd != kNoKey) return Interval{crowd, ~crowd, 0};
  }
  uint32_t const low_key = GuessBins::low(max(shared.low.bin, high - min(high, kMaxBins - 1)));
  uint32_t const end = high == kBins - 1 ? kBestKey : GuessBins::low(high + 1) - 1;
  return Interval{low_key, ~low_key, round_shift(end - low_key)};
}

}  // namespace dsa_ops::topk_sm90
