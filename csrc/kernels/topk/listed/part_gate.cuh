// The gate of a part: what somewhat more than the row's best k logits pass, judged by a sample of
// the part.
#pragma once
#include <cmath>
#include <cstdint>

#include "device/ptx/convert.cuh"
#include "device/ptx/warp.cuh"
#include "device/ptx/warpgroup.cuh"
#include "kernels/topk/keys.cuh"
#include "kernels/topk/listed/traits.h"
#include "kernels/topk/storage.h"

namespace dsa_ops::topk_sm90::listed {

inline constexpr int kLanes = 128;  // of the math warps
inline constexpr uint32_t kNoBin = ~0u;
inline constexpr int kMeeting = 1;  // named barrier

struct GateStorage {
  uint32_t warp_sums[kLanes / 32];
  Place low;
  Place high;
  alignas(16) uint32_t bins[kGateBins / 2];  // two to a word
  alignas(16) float sample[kSampleKeys];
};

// Ascending: the sign, the exponent and five more bits of a logit as float16, towards zero; 32 bins
// to a power of two. Both zeros count as the positive one.
__device__ __forceinline__ uint32_t gate_bin(float logit) {
  uint32_t const bits = ptx::truncate_f16(__fadd_rn(logit, 0.0f));
  uint32_t const magnitude = (bits & 0x7FFF) >> 5;
  return bits & 0x8000 ? kGateBins / 2 - 1 - magnitude : kGateBins / 2 + magnitude;
}
// The lowest key in a bin.
__device__ __forceinline__ uint32_t first_key_of_bin(uint32_t bin) {
  bool const negative = bin < kGateBins / 2;
  uint32_t const magnitude = negative ? kGateBins / 2 - bin : bin - kGateBins / 2;
  float const edge = ptx::f16_to_float(magnitude << 5);
  return negative ? key_of(-edge) + 1 : key_of(edge);
}
inline constexpr uint32_t kZeroBin = kGateBins / 2;

// By the kLanes lanes of the math warps, threads 0 ... kLanes - 1.
class PartGate {
 public:
  __device__ __forceinline__ explicit PartGate(GateStorage& shared) : shared_(shared) {}

  // All lanes have come here, and what they wrote to shared memory is visible.
  __device__ __forceinline__ void meet() { ptx::named_barrier_sync(kMeeting, kLanes); }

  __device__ __forceinline__ void count(float logit) {
    if (logit > -INFINITY) add(gate_bin(logit));
  }

  // From a sample that is counted and complete up to `sampled`, drawn evenly from `drawn_from`
  // keys, all of the row's among them; the bins are zero again afterwards. The rank is what top_k
  // keys of the row have in the sample on average and eight deviations more.
  __device__ __forceinline__ void find(int32_t sampled, int32_t drawn_from, int32_t top_k) {
    float const expected = static_cast<float>(top_k) * sampled / drawn_from;
    float const deviation = sqrtf(expected);
    uint32_t const rank = static_cast<uint32_t>(expected + 8.0f * deviation + 8.0f);
    float const few = expected - 3.0f * deviation;
    find_places(rank, static_cast<uint32_t>(fmaxf(few, 1.0f)));
    Place const low = shared_.low;
    Place const best = shared_.high;
    gate = kWorstKey + 1;  // all but -inf and NaN
    high = best.bin == kNoBin ? kBestKey : first_key_of_bin(best.bin + 1);
    zero_end = 0;
    if (low.bin == kNoBin) return;
    gate = first_key_of_bin(low.bin);
    if (low.inside - low.rank <= rank / 4) return;
    if (low.bin == kZeroBin) {
      gate = key_of(0.0f) + 1;
      zero_end = end_of_zeros(rank - low.rank, low.inside, sampled, drawn_from, top_k);
    } else {
      gate += narrow(sampled, gate, first_key_of_bin(low.bin + 1) - gate, low.rank);
    }
  }

  uint32_t gate;  // a key
  uint32_t high;
  int32_t zero_end;  // see ListedPart

 private:
  __device__ __forceinline__ void add(uint32_t bin) {
    atomicAdd(&shared_.bins[bin / 2], 1u << 16 * (bin % 2));
  }

  // Where the rank-th best counted values lie, or kNoBin if there are fewer. Not find_places() of
  // bins.cuh, which takes a whole block and leaves the bins: a lane has its own in registers here,
  // two to a word, and clears them for the next part.
  __device__ __forceinline__ void find_places(uint32_t low_rank, uint32_t high_rank) {
    constexpr int kOwn = kGateBins / kLanes;
    int const lane = threadIdx.x % 32;
    int const warp = threadIdx.x / 32;
    int const first = kGateBins - kOwn - kOwn * static_cast<int>(threadIdx.x);
    meet();
    if (threadIdx.x == 0) {
      shared_.low.bin = kNoBin;
      shared_.high.bin = kNoBin;
    }
    uint32_t words[kOwn / 2];
    uint32_t sum = 0;
#pragma unroll
    for (int i = 0; i < kOwn / 2; ++i) {
      words[i] = shared_.bins[first / 2 + i];
      shared_.bins[first / 2 + i] = 0;
      sum += (words[i] & 0xFFFF) + (words[i] >> 16);
    }
    uint32_t const inclusive = ptx::warp_inclusive_sum(sum);
    if (lane == 31) shared_.warp_sums[warp] = inclusive;
    meet();
    uint32_t above = inclusive - sum;
#pragma unroll
    for (int other = 0; other < kLanes / 32 - 1; ++other) {
      above += other < warp ? shared_.warp_sums[other] : 0;
    }
    if (above < low_rank && above + sum >= high_rank) {
#pragma unroll
      for (int i = kOwn - 1; i >= 0; --i) {
        uint32_t const count = words[i / 2] >> 16 * (i % 2) & 0xFFFF;
        uint32_t const reached = above + count;
        uint32_t const bin = first + i;
        if (above < high_rank && high_rank <= reached) {
          shared_.high = Place{bin, high_rank - above, count};
        }
        if (above < low_rank && low_rank <= reached) {
          shared_.low = Place{bin, low_rank - above, count};
        }
        above = reached;
      }
    }
    meet();
  }

  // ReLU zeros: before which position lie as many of them as the row's positive logits leave to be
  // found. Of both the sample is no more than an estimate.
  static __device__ __forceinline__ int32_t end_of_zeros(uint32_t positive, uint32_t zeros,
                                                         int32_t sampled, int32_t drawn_from,
                                                         int32_t top_k) {
    float const fewest = positive - 4.0f * sqrtf(positive);
    float const missing = top_k - fmaxf(fewest, 0.0f) * drawn_from / sampled;
    if (missing <= 0.0f) return 0;
    float const end = 1.25f * missing * sampled / zeros + 256.0f;
    return static_cast<int32_t>(fminf(end, drawn_from));
  }

  // How far above `first` the rank-th best sample lies of those within `width` keys, in finer bins.
  __device__ __forceinline__ uint32_t narrow(int32_t sampled, uint32_t first, uint32_t width,
                                             uint32_t rank) {
    int const shift = max(32 - __clz((width - 1) / kGateBins), 0);
    for (int32_t i = threadIdx.x; i < sampled; i += kLanes) {
      uint32_t const offset = key_of(shared_.sample[i]) - first;
      if (offset < width) add(offset >> shift);
    }
    find_places(rank, 0);
    return shared_.low.bin == kNoBin ? 0 : shared_.low.bin << shift;
  }

  GateStorage& shared_;
};

}  // namespace dsa_ops::topk_sm90::listed
