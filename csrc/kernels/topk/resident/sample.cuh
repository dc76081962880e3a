// Samples of a row's keys, from which an interval is guessed.
#pragma once
#include <cstdint>

#include "kernels/topk/guess.cuh"
#include "kernels/topk/keys.cuh"
#include "kernels/topk/packet.cuh"
#include "kernels/topk/resident/traits.h"

namespace dsa_ops::topk_sm90::resident {

// Samples of a row that several blocks share: quads of neighbours, which cost a load no more than
// one logit does, at scrambled places within equal parts of the row, as a fixed distance could meet
// a period of the data.
template <LogitsType kType>
struct RowSample {
  static constexpr int kQuadLogits = 4;
  static constexpr int kQuads = kSamples / kQuadLogits;
  float logits[kQuadLogits];
  int position;
  bool sampled;

  template <class Element>
  __device__ __forceinline__ RowSample(Element const* row, int span) {
    using Quad = typename Packet<kType>::Quad;
    int const misaligned =
        static_cast<int>(reinterpret_cast<uintptr_t>(row) / sizeof(Element) % kQuadLogits);
    int const head = (kQuadLogits - misaligned) % kQuadLogits;
    int const quads = (span - head) / kQuadLogits;
    int const begin = static_cast<int>(static_cast<uint64_t>(quads) * threadIdx.x / kQuads);
    int const quad = begin + __umulhi(threadIdx.x * 0x9E3779B1u, max(quads / kQuads, 1));
    sampled = threadIdx.x < kQuads && quads >= 1;
    position = head + quad * kQuadLogits;
    Quad raw{};
    load_quad_if(sampled, reinterpret_cast<Quad const*>(row + position), raw);
    Packet<kType>::unpack_quad(raw, logits);
  }
  __device__ __forceinline__ Interval guess(BinStorage& shared, int length, int span,
                                            int top_k) const {
    uint32_t keys[kQuadLogits];
#pragma unroll
    for (int i = 0; i < kQuadLogits; ++i) {
      keys[i] = sampled && position + i < length ? key_of(logits[i]) : kNoKey;
    }
    return guess_interval<kThreads>(shared, keys, top_k, __fdividef(kSamples, span));
  }
};

}  // namespace dsa_ops::topk_sm90::resident
