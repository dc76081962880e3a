// Samples of a row's keys, from which an interval is guessed.
#pragma once
#include <cstdint>

#include "kernels/topk/guess.cuh"
#include "kernels/topk/keys.cuh"
#include "kernels/topk/packet.cuh"
#include "kernels/topk/resident/traits.h"

namespace dsa_ops::topk_sm90::resident {

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
