// The gate of a part: what somewhat more than the row's best k logits pass, judged by a sample of
// the part.
#pragma once
#include <cstdint>

#include "device/ptx/convert.cuh"
#include "device/ptx/mbarrier.cuh"
#include "device/ptx/warp.cuh"
#include "kernels/topk/bins.cuh"
#include "kernels/topk/keys.cuh"
#include "kernels/topk/listed/traits.h"

namespace dsa_ops::topk_sm90::listed {

inline constexpr int kLanes = 128;  // of the math warps
inline constexpr uint32_t kNoBin = ~0u;

struct GateStorage {
  uint64_t met;  // kLanes arrivals
  uint32_t warp_sums[kLanes / 32];
  Place low;
  Place high;
  alignas(16) uint32_t bins[kGateBins];
  float sample[kSampleKeys];
};

// Logits from zero on by the first ten bits of their magnitude as float16: 32 bins to a power of
// two. The sign of a zero does not count.
__device__ __forceinline__ uint32_t gate_bin(float logit) {
  return (ptx::truncate_f16(logit) & 0x7FFF) >> 5;
}
__device__ __forceinline__ uint32_t first_bits_of_bin(uint32_t bin) {
  return __float_as_uint(ptx::f16_to_float(bin << 5));
}

// By the kLanes lanes of the math warps, threads 0 ... kLanes - 1.
class PartGate {
 public:
  __device__ __forceinline__ explicit PartGate(GateStorage& shared) : shared_(shared) {}

  // All lanes have come here, and what they wrote to shared memory is visible.
  __device__ __forceinline__ void meet() {
    ptx::mbarrier_arrive(&shared_.met);
    ptx::mbarrier_wait(&shared_.met, phase_);
    phase_ ^= 1;
  }

  __device__ __forceinline__ void count(float logit) {
    if (logit >= 0.f) atomicAdd(&shared_.bins[gate_bin(logit)], 1u);
  }

  // From a sample that is counted and complete up to `sampled`; the bins are zero again afterwards.
  // The rank is what top_k keys of the row have in the sample on average and eight deviations more.
  __device__ __forceinline__ void find(int32_t sampled, int32_t row_length, int32_t top_k) {
    float const expected = static_cast<float>(top_k) * sampled / row_length;
    float const deviation = sqrtf(expected);
    uint32_t const rank = static_cast<uint32_t>(expected + 8.0f * deviation + 8.0f);
    float const few = expected - 3.0f * deviation;
    find_places(rank, static_cast<uint32_t>(fmaxf(few, 1.0f)));
    Place low = shared_.low;
    uint32_t const high_bin = shared_.high.bin;
    gate = -3.402823466e38f;  // all but -inf and NaN
    high = kBestKey;
    zero_end = 0;
    if (high_bin != kNoBin) high = key_of(__uint_as_float(first_bits_of_bin(high_bin + 1)));
    if (low.bin == kNoBin) return;
    uint32_t first = first_bits_of_bin(low.bin);
    bool const crowded = low.inside - low.rank > rank / 4;
    if (crowded && low.bin == 0) {
      // ReLU zeros: the smallest positive logit, and the zeros among as many keys as have enough of
      // them, or nearly.
      first = 1;
      float const keys = 1.25f * top_k * sampled / low.inside + 256.0f;
      zero_end = static_cast<int32_t>(fminf(keys, row_length));
    } else if (crowded) {
      first += narrow(sampled, first, first_bits_of_bin(low.bin + 1) - first, low.rank);
    }
    gate = __uint_as_float(first);
  }

  float gate;
  uint32_t high;
  int32_t zero_end;  // see ListedPart

 private:
  // Where the rank-th best counted values lie, or kNoBin if there are fewer.
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
    uint32_t counts[kOwn];
    uint32_t sum = 0;
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      counts[i] = shared_.bins[first + i];
      sum += counts[i];
    }
#pragma unroll
    for (int i = 0; i < kOwn; ++i) shared_.bins[first + i] = 0;
    uint32_t const inclusive = ptx::warp_inclusive_sum(sum, lane);
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
        uint32_t const reached = above + counts[i];
        uint32_t const bin = first + i;
        if (above < high_rank && high_rank <= reached) {
          shared_.high = Place{bin, high_rank - above, counts[i]};
        }
        if (above < low_rank && low_rank <= reached) {
          shared_.low = Place{bin, low_rank - above, counts[i]};
        }
        above = reached;
      }
    }
    meet();
  }

  // How far above `first`, the bits of a positive logit, the rank-th best sample lies of those
  // within `width`, in finer bins.
  __device__ __forceinline__ uint32_t narrow(int32_t sampled, uint32_t first, uint32_t width,
                                             uint32_t rank) {
    int const shift = max(32 - __clz(width - 1) - 10, 0);
    for (int32_t i = threadIdx.x; i < sampled; i += kLanes) {
      uint32_t const offset = __float_as_uint(shared_.sample[i]) - first;
      if (offset < width) atomicAdd(&shared_.bins[offset >> shift], 1u);
    }
    find_places(rank, 0);
    return shared_.low.bin == kNoBin ? 0 : shared_.low.bin << shift;
  }

  GateStorage& shared_;
  uint32_t phase_ = 0;
};

}  // namespace dsa_ops::topk_sm90::listed
