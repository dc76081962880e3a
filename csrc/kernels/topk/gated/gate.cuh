// A gate that somewhat more than a row's best k logits pass, found from a sample of the row.
#pragma once
#include <cstdint>

#include "kernels/topk/bins.cuh"
#include "kernels/topk/gated/traits.h"
#include "kernels/topk/keys.cuh"
#include "kernels/topk/packet.cuh"

namespace dsa_ops::topk_sm90::gated {

// The sample of one thread, a quad of neighbours read at once. Quads lie at a scrambled place each
// within equal parts of the row, as a fixed distance could meet a period of the data.
template <LogitsType kType, int kThreads>
struct Sample {
  float logits[kQuadLogits];
  float density;  // samples of the row by logits of the row

  template <class Element>
  __device__ __forceinline__ Sample(Element const* row, int length) {
    using Quad = typename Packet<kType>::Quad;
    density = __fdividef(kThreads * kQuadLogits, length);
    int const misaligned =
        static_cast<int>(reinterpret_cast<uintptr_t>(row) / sizeof(Element) % kQuadLogits);
    int const head = (kQuadLogits - misaligned) % kQuadLogits;
    int const quads = (length - head) / kQuadLogits;
    if (quads < 1) {  // as if all were the worst: no gate
#pragma unroll
      for (float& logit : logits) logit = no_logit();
      return;
    }
    int const begin = static_cast<int>(static_cast<uint64_t>(quads) * threadIdx.x / kThreads);
    int const place = __umulhi(threadIdx.x * 0x9E3779B1u, max(quads / kThreads, 1));
    Packet<kType>::unpack_quad(reinterpret_cast<Quad const*>(row + head)[begin + place], logits);
  }

  template <class Visit>
  __device__ __forceinline__ void visit(Visit const& visit) const {
#pragma unroll
    for (int i = 0; i < kQuadLogits; ++i) visit(key_of(logits[i]));
  }
};

// The one value that the samples in a bin have, or kNoKey if they differ. One barrier.
template <LogitsType kType, int kThreads>
__device__ __forceinline__ uint32_t only_value(uint32_t (&warp_words)[2][1][kThreads / 32],
                                               Sample<kType, kThreads> const& sample,
                                               Bin const& bin) {
  int const lane = threadIdx.x % 32;
  int const warp = threadIdx.x / 32;
  uint32_t low = ~0u;
  uint32_t high = 0;
  sample.visit([&](uint32_t key) {
    if (key - bin.low >> bin.shift == 0) {
      low = min(low, key);
      high = max(high, key);
    }
  });
  low = __reduce_min_sync(kAllLanes, low);
  high = __reduce_max_sync(kAllLanes, high);
  if (lane == 0) {
    warp_words[0][0][warp] = low;
    warp_words[1][0][warp] = high;
  }
  __syncthreads();
  constexpr int kWarps = kThreads / 32;
  low = __reduce_min_sync(kAllLanes, warp_words[0][0][lane % kWarps]);
  high = __reduce_max_sync(kAllLanes, warp_words[1][0][lane % kWarps]);
  return low == high ? low : kNoKey;
}

// The gate is the rank-th best sample, or up to a quarter of the rank below it. A crowd of equal
// samples there puts it just above them. The rank is what k keys of the row have in the sample on
// average and six deviations more: neighbours may resemble each other, and then count less.
template <LogitsType kType, int kThreads>
__device__ __forceinline__ Gate find_gate(BinStorage& shared,
                                          uint32_t (&warp_words)[2][1][kThreads / 32],
                                          Sample<kType, kThreads> const& sample, int top_k) {
  float const expected = top_k * sample.density;
  float const deviation = sqrtf(expected);
  constexpr uint32_t kSamples = kThreads * kQuadLogits;
  uint32_t const rank = static_cast<uint32_t>(expected + 6.0f * deviation + 4.0f);
  Gate const lowest{kWorstKey + 1, kBestKey, true};
  // Nearly all samples: no other gate would be of use.
  if (rank > kSamples / 4 * 3) return lowest;
  uint32_t const high_rank = static_cast<uint32_t>(fmaxf(expected - 3.0f * deviation - 2.0f, 1.0f));
  auto const visit = [&](auto const& count) { sample.visit(count); };
  auto const passing = [&](Bin const& bin) { return rank - bin.rank + bin.inside; };
  auto const enough = [&](Bin const& bin) {
    return bin.shift < 32 && passing(bin) <= rank + rank / 4;
  };
  bool first = true;
  uint32_t crowd = kNoKey;  // ReLU zeros, for example: spares them the steps to a single value
  Bin bin =
      narrow<kThreads>(shared, Bin{0, 32, rank, kSamples}, high_rank, visit, [&](Bin const& bin) {
        if (bin.shift == 32 || enough(bin) || !first) return enough(bin);
        first = false;
        crowd = only_value(warp_words, sample, bin);
        return crowd != kNoKey;
      });
  if (crowd != kNoKey) bin.low = crowd;
  uint32_t const high = shared.high.bin << (32 - kBinsLog2) | ~0u >> kBinsLog2;
  // No NaN passes any gate: they and -inf, one key, are told apart from the rest by a gate above.
  if (bin.low <= kWorstKey) return lowest;
  bool const above_tie = passing(bin) > rank + rank / 4;
  return Gate{bin.low + (above_tie ? 1 : 0), high, above_tie};
}

}  // namespace dsa_ops::topk_sm90::gated
