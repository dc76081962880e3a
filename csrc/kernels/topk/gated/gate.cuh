// A gate that somewhat more than a row's best k logits pass, found from a sample of the row.
#pragma once
#include <cstdint>

#include "kernels/topk/bins.cuh"
#include "kernels/topk/gated/traits.h"
#include "kernels/topk/keys.cuh"
#include "kernels/topk/packet.cuh"

namespace dsa_ops::topk_sm90::gated {

// The sample of one thread, a quad of neighbours read at once. Runs of quads lie at a scrambled
// place each within equal parts of the row, as a fixed distance could meet a period of the data.
template <LogitsType kType, int kThreads>
struct Sample {
  float logits[kQuadLogits];
  int position;   // of the first
  float density;  // samples of the row by logits of the row

  template <class Element>
  __device__ __forceinline__ Sample(Element const* row, int length) {
    using Quad = typename Packet<kType>::Quad;
    position = 0;
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
    constexpr int kRuns = kThreads / kRunQuads;
    int const run = static_cast<int>(threadIdx.x) / kRunQuads;
    int const runs = quads / kRunQuads;
    int const begin = static_cast<int>(static_cast<int64_t>(runs) * run / kRuns);
    int const place = __umulhi(run * 0x9E3779B1u, max(runs / kRuns, 1));
    int const quad = (begin + place) * kRunQuads + static_cast<int>(threadIdx.x) % kRunQuads;
    position = head + min(quad, quads - 1) * kQuadLogits;
    Packet<kType>::unpack_quad(*reinterpret_cast<Quad const*>(row + position), logits);
  }

  // Makes what lies past the row's first `length` logits as if it were the worst.
  __device__ __forceinline__ void drop_beyond(int length) {
#pragma unroll
    for (int i = 0; i < kQuadLogits; ++i) {
      logits[i] = position + i < length ? logits[i] : no_logit();
    }
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

// Bins of samples, the best sample's last: fine ones for the four powers of two below it, where the
// gate nearly always lies, and coarse ones for all keys below those.
class SampleBins {
 public:
  __device__ __forceinline__ explicit SampleBins(uint32_t best) : best_(best) {}

  __device__ __forceinline__ uint32_t operator()(uint32_t key) const {
    uint32_t const steps = (best_ - key) >> kFineShift;
    return steps < kFineBins ? kBins - 1 - steps : key >> kCoarseShift;
  }
  __device__ __forceinline__ bool is_fine(uint32_t bin) const { return bin >= kBins - kFineBins; }
  // Keys of a bin; the lowest of a fine one is a key.
  __device__ __forceinline__ uint32_t low(uint32_t bin) const {
    if (!is_fine(bin)) return bin << kCoarseShift;
    return best_ - min(best_, ((kBins - bin) << kFineShift) - 1);
  }
  __device__ __forceinline__ uint32_t high(uint32_t bin) const {
    if (!is_fine(bin)) return (bin << kCoarseShift) | ~(~0u << kCoarseShift);
    return best_ - ((kBins - 1 - bin) << kFineShift);
  }
  __device__ __forceinline__ int shift(uint32_t bin) const {
    return is_fine(bin) ? kFineShift : kCoarseShift;
  }

 private:
  static constexpr uint32_t kFineBins = kBins / 2;
  static constexpr int kFineShift = 25 - (kBinsLog2 - 1);
  static constexpr int kCoarseShift = 32 - (kBinsLog2 - 1);

  uint32_t best_;
};

// The greatest of the block's samples. One barrier.
template <LogitsType kType, int kThreads>
__device__ __forceinline__ uint32_t best_sample(uint32_t (&warp_words)[2][1][kThreads / 32],
                                                Sample<kType, kThreads> const& sample) {
  uint32_t best = kNoKey;
  sample.visit([&](uint32_t key) { best = max(best, key); });
  best = __reduce_max_sync(kAllLanes, best);
  if (threadIdx.x % 32 == 0) warp_words[0][0][threadIdx.x / 32] = best;
  __syncthreads();
  return __reduce_max_sync(kAllLanes, warp_words[0][0][threadIdx.x % 32 % (kThreads / 32)]);
}

// The gate is the rank-th best sample, or up to a quarter of the rank below it. A crowd of equal
// samples there puts it just above them. The rank is what k keys of the row have in the sample on
// average and six deviations more: neighbours may resemble each other, and then count less. The
// caller has cleared the bins, and calls of samples_here() come when no load is in their way.
// Barriers: the best sample; the counts; the search; the places.
template <LogitsType kType, int kThreads, class SamplesHere>
__device__ __forceinline__ Gate find_gate(BinStorage& shared,
                                          uint32_t (&warp_words)[2][1][kThreads / 32],
                                          Sample<kType, kThreads> const& sample, int top_k,
                                          SamplesHere const& samples_here) {
  float const expected = top_k * sample.density;
  float const deviation = sqrtf(expected);
  constexpr uint32_t kSamples = kThreads * kQuadLogits;
  uint32_t const rank = static_cast<uint32_t>(expected + 6.0f * deviation + 4.0f);
  SampleBins const bin_of(best_sample(warp_words, sample));
  samples_here();
  Gate const lowest{kWorstKey + 1, kBestKey, true, false, false};
  // Nearly all samples: no other gate would be of use.
  if (rank > kSamples / 4 * 3) return lowest;
  sample.visit([&](uint32_t key) { atomicAdd(&shared.bins[bin_of(key)], 1u); });
  __syncthreads();
  uint32_t const high_rank = static_cast<uint32_t>(fmaxf(expected - 3.0f * deviation - 2.0f, 1.0f));
  find_places<kThreads>(shared, rank, high_rank);
  __syncthreads();
  Place const place = shared.low;
  uint32_t const high = bin_of.high(shared.high.bin);
  Bin bin{bin_of.low(place.bin), bin_of.shift(place.bin), place.rank, place.inside};
  auto const passing = [&](Bin const& bin) { return rank - bin.rank + bin.inside; };
  auto const enough = [&](Bin const& bin) { return passing(bin) <= rank + rank / 4; };
  if (!enough(bin)) {
    // ReLU zeros, for example: spares them the steps to a single value.
    uint32_t const crowd = only_value(warp_words, sample, bin);
    if (crowd == kNoKey) {
      bin =
          narrow<kThreads>(shared, bin, 0, [&](auto const& count) { sample.visit(count); }, enough);
    } else {
      bin.low = crowd;
    }
  }
  // No NaN passes any gate: they and -inf, one key, are told apart from the rest by a gate above.
  if (bin.low <= kWorstKey) return lowest;
  bool const above_tie = !enough(bin);
  // Samples above the tie, against somewhat more than the row's best k have, which the rank tells.
  float const root = sqrtf(static_cast<float>(rank) + 5.0f) - 3.0f;
  float const above = static_cast<float>(rank - bin.rank);
  bool const likely_tied = above_tie && above < root * root + 0.5f * root;
  bool const maybe_tied = above_tie && above < 1.25f * root * root + 0.5f * root;
  return Gate{bin.low + (above_tie ? 1 : 0), high, above_tie, likely_tied, maybe_tied};
}

}  // namespace dsa_ops::topk_sm90::gated
