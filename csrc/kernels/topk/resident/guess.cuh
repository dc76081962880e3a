// An interval of keys that probably holds a row's k-th best, guessed from a sample.
#pragma once
#include <cstdint>

#include "kernels/topk/bins.cuh"
#include "kernels/topk/cluster_select.cuh"
#include "kernels/topk/keys.cuh"
#include "kernels/topk/packet.cuh"
#include "kernels/topk/resident/traits.h"

namespace dsa_ops::topk_sm90::resident {

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

// A thread's samples of a row that several blocks share: at scrambled places within equal parts of
// it, as a fixed distance could meet a period of the data.
template <LogitsType kType, int kThreads>
struct RowSample {
  static constexpr int kCount = kSamples / kThreads;
  float logits[kCount];
  uint32_t places[kCount];

  template <class Element>
  __device__ __forceinline__ RowSample(Element const* row, int span) {
    uint32_t const width = max(span / kSamples, 1);
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      uint32_t const index = threadIdx.x + i * kThreads;
      uint32_t const begin = static_cast<uint32_t>(
          static_cast<uint64_t>(static_cast<uint32_t>(span)) * index / kSamples);
      places[i] = begin + __umulhi(index * 0x9E3779B1u, width);
      logits[i] = span > 0 ? Packet<kType>::logit(row[places[i]]) : no_logit();
    }
  }
  __device__ __forceinline__ Interval guess(BinStorage& shared, int length, int span,
                                            int top_k) const {
    uint32_t keys[kCount];
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      keys[i] = places[i] < static_cast<uint32_t>(length) ? key_of(logits[i]) : kNoKey;
    }
    return guess_interval<kThreads>(shared, keys, top_k, __fdividef(kSamples, span));
  }
};

// One block has the whole row: one key of each thread is the sample.
template <int kThreads, int kKeys>
__device__ __forceinline__ Interval guess_from_keys(BinStorage& shared,
                                                    uint32_t const (&keys)[kKeys], int top_k) {
  static_assert((kKeys & (kKeys - 1)) == 0);
  uint32_t const choice = threadIdx.x * 0x9E3779B1u >> 20 & (kKeys - 1);
  uint32_t samples[1] = {keys[0]};
#pragma unroll
  for (int i = 1; i < kKeys; ++i) samples[0] = choice == i ? keys[i] : samples[0];
  return guess_interval<kThreads>(shared, samples, top_k, 1.0f / kKeys);
}

}  // namespace dsa_ops::topk_sm90::resident
