// Samples of a row's keys, from which an interval is guessed.
#pragma once
#include <cstdint>

#include "kernels/topk/guess.cuh"
#include "kernels/topk/keys.cuh"
#include "kernels/topk/packet.cuh"
#include "kernels/topk/resident/traits.h"

namespace dsa_ops::topk_sm90::resident {

// Samples of a row that several blocks share, a pair of a thread: two threads have a quad of
// neighbours, which costs a load no more than one logit does. Quads lie at scrambled places within
// equal parts of the row, as a fixed distance could meet a period of the data.
template <LogitsType kType>
struct RowSample {
  static constexpr int kPairLogits = kSamples / kThreads;
  static_assert(kPairLogits == 2);
  static constexpr int kQuadLogits = 2 * kPairLogits;
  static constexpr int kQuads = kSamples / kQuadLogits;
  float logits[kPairLogits];
  int position;

  template <class Element>
  __device__ __forceinline__ RowSample(Element const* row, int span) {
    using Pair = typename Packet<kType>::Pair;
    int const misaligned =
        static_cast<int>(reinterpret_cast<uintptr_t>(row) / sizeof(Element) % kQuadLogits);
    int const head = (kQuadLogits - misaligned) % kQuadLogits;
    int const quads = (span - head) / kQuadLogits;
    if (quads < 1) {
#pragma unroll
      for (float& logit : logits) logit = no_logit();
      position = span;
      return;
    }
    uint32_t const own = threadIdx.x / 2;
    uint32_t const begin = static_cast<uint64_t>(quads) * own / kQuads;
    uint32_t const quad = begin + __umulhi(own * 0x9E3779B1u, max(quads / kQuads, 1));
    position = head + static_cast<int>(quad * kQuadLogits + threadIdx.x % 2 * kPairLogits);
    Packet<kType>::unpack_pair(*reinterpret_cast<Pair const*>(row + position), logits);
  }
  // Calls samples_here() once all of the block are.
  template <class SamplesHere>
  __device__ __forceinline__ Interval guess(BinStorage& shared, int length, int span, int top_k,
                                            SamplesHere const& samples_here) const {
    uint32_t keys[kPairLogits];
#pragma unroll
    for (int i = 0; i < kPairLogits; ++i) {
      keys[i] = position + i < length ? key_of(logits[i]) : kNoKey;
    }
    return guess_interval<kThreads>(shared, keys, top_k, __fdividef(kSamples, span), samples_here);
  }
};

}  // namespace dsa_ops::topk_sm90::resident
