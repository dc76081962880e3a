// Bins of logits' values: where the k-th best probably lies, linear and fine.
#pragma once
#include <cstdint>

#include "device/ptx/warp.cuh"
#include "kernels/topk/binned/traits.h"
#include "kernels/topk/bins.cuh"
#include "kernels/topk/block_scan.cuh"
#include "kernels/topk/tile_ranks.cuh"

namespace dsa_ops::topk_sm90::binned {

// A sample as the map takes it: finite, NaN as the least.
inline constexpr float kHuge = 1e37f;
__device__ __forceinline__ float finite(float sample) {
  return fminf(fmaxf(sample, -kHuge), kHuge);
}

// Sorts one value of each lane, the same in all warps, the greatest first: every warp finds the
// places of its share. The caller synchronises the block behind it.
template <int kWarps>
__device__ __forceinline__ void sort_by_warps(float (&sorted)[32], float value) {
  constexpr int kShare = 32 / kWarps;
  int const lane = threadIdx.x % 32;
#pragma unroll
  for (int i = 0; i < kShare; ++i) {
    int const own = static_cast<int>(threadIdx.x) / 32 * kShare + i;
    float const own_value = __shfl_sync(kAllLanes, value, own);
    bool const before = value > own_value || (value == own_value && lane < own);
    uint32_t const place = __popc(__ballot_sync(kAllLanes, before));
    if (lane == own) sorted[place] = value;
  }
}

// One value of each lane, sorted: the greatest to lane 0.
__device__ __forceinline__ float sort_lanes(float value) {
  int const lane = threadIdx.x % 32;
#pragma unroll
  for (int size = 2; size <= 32; size *= 2) {
#pragma unroll
    for (int stride = size / 2; stride > 0; stride /= 2) {
      float const other = __shfl_xor_sync(kAllLanes, value, stride);
      bool const keeps_less = ((lane & stride) != 0) == ((lane & size) == 0);
      value = keeps_less ? fminf(value, other) : fmaxf(value, other);
    }
  }
  return value;
}

// Ranks among samples of a row, the greatest having 0: that of the top_k-th best of the row on
// average, and 3.5 deviations either side, which may be no sample's.
struct SampleRanks {
  int low;
  int middle;
  int high;
  // The less is expected beyond a rank, the farther may it lie beyond the best sample.
  float reach;

  __device__ __forceinline__ SampleRanks(int top_k, int length, int samples) {
    float const share = __fdividef(top_k, length);
    float const expected = samples * share;
    float deviation;  // exactly rounded it would be a call
    asm("sqrt.approx.f32 %0, %1;" : "=f"(deviation) : "f"(expected * (1.0f - share)));
    float const margin = 3.5f * deviation + 1.0f;
    low = static_cast<int>(expected + margin);
    middle = static_cast<int>(expected);
    high = static_cast<int>(expected - margin) - 1;
    reach = __fdividef(4.0f, expected);
  }
};

// Whether many samples around the k-th best are one value, as ReLU zeros would be.
struct Crowd {
  bool exists;
  float value;
};

// `low` and `middle`: the samples of these ranks, of which `last` is the last.
__device__ __forceinline__ Crowd find_crowd(SampleRanks const& ranks, int last, float low,
                                            float middle) {
  return {ranks.low >= ranks.middle + 4 && ranks.low <= last && low == middle, low};
}

// A bin for every logit, which never descends as logits ascend: equal logits share one, and NaN and
// -inf have the first. Scale and offset are finite and the scale is normal and above zero, whatever
// the samples.
class BinMap {
 public:
  // sample_at(rank) is a finite sample, 0 <= rank < 32. By all lanes.
  template <class SampleAt>
  __device__ __forceinline__ BinMap(SampleRanks const& ranks, SampleAt const& sample_at) {
    float low = sample_at(min(ranks.low, 31));
    float high = sample_at(max(ranks.high, 0));
    float const beyond = 0.5f * (sample_at(0) - sample_at(31));
    float const middle = sample_at(min(ranks.middle, 31));
    crowd_ = find_crowd(ranks, 31, low, middle);
    if (ranks.low > 31) low -= beyond;
    if (ranks.high < 0) high += beyond;
    // A width of nothing: all these samples are equal, which then have a bin of their own.
    float const least = fmaxf(1e-30f, 1e-6f * fmaxf(fabsf(low), fabsf(high)));
    scale_ = __fdividef(1.0f, fmaxf(high - low, least));
    offset_ = fmaf(-low, scale_, 1.0f / 64);
  }
  // The bits of 2^23 and the bin.
  __device__ __forceinline__ uint32_t operator()(float logit) const {
    float const place = __saturatef(fmaf(logit, scale_, offset_));
    return __float_as_uint(fmaf(place, static_cast<float>(kValueBins - 1), 8388608.0f));
  }
  static constexpr uint32_t kFirstBin = 0x4B000000u;
  __device__ __forceinline__ Crowd const& crowd() const { return crowd_; }

 private:
  float scale_;
  float offset_;
  Crowd crowd_;
};

// The bin of the rank-th best of the counted values, of which there are as many. By all threads,
// four bins each. Barriers: the warps' sums; the place.
__device__ __forceinline__ Place find_bin(SharedStorage& shared, uint32_t rank) {
  static_assert(kValueBins == 4 * kThreads);
  int const low = kValueBins - 4 - 4 * static_cast<int>(threadIdx.x);
  uint4 const quad = *reinterpret_cast<uint4 const*>(&shared.bins[low]);
  uint32_t const sum = quad.x + quad.y + quad.z + quad.w;
  uint32_t const inclusive = ptx::warp_inclusive_sum(sum);
  int const lane = threadIdx.x % 32;
  int const warp = threadIdx.x / 32;
  if (lane == 31) shared.warp_values[0][warp] = inclusive;
  __syncthreads();
  uint32_t const above =
      inclusive - sum + __reduce_add_sync(kAllLanes, lane < warp ? shared.warp_values[0][lane] : 0);
  if (above < rank && rank <= above + sum) {
    shared.place = place_in_quad(quad, static_cast<uint32_t>(low), rank - above);
  }
  __syncthreads();
  return shared.place;
}

}  // namespace dsa_ops::topk_sm90::binned
