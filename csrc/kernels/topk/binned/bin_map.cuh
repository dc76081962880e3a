// Bins of logits' values: where the k-th best probably lies, linear and fine.
#pragma once
#include <cstdint>

#include "device/ptx/warp.cuh"
#include "kernels/topk/binned/traits.h"
#include "kernels/topk/block_scan.cuh"
#include "kernels/topk/tile_ranks.cuh"

namespace dsa_ops::topk_sm90::binned {

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

// A bin for every logit, which never descends as logits ascend: equal logits share one, and NaN and
// -inf have the first. Scale and offset are finite and the scale is normal and above zero, whatever
// the samples.
class BinMap {
 public:
  // From a sample of each lane, of a row of `length` logits whose top_k-th best is sought.
  __device__ __forceinline__ BinMap(float sample, int top_k, int length) {
    constexpr float kHuge = 1e37f;
    float const sorted = sort_lanes(fminf(fmaxf(sample, -kHuge), kHuge));
    float const share = __fdividef(top_k, length);
    float const expected = 32.0f * share;
    float const margin = 3.5f * __fsqrt_rn(expected * (1.0f - share)) + 1.0f;
    int const low_rank = static_cast<int>(expected + margin);
    int const high_rank = static_cast<int>(expected - margin) - 1;
    float low = __shfl_sync(kAllLanes, sorted, min(low_rank, 31));
    float high = __shfl_sync(kAllLanes, sorted, max(high_rank, 0));
    float const beyond =
        0.5f * (__shfl_sync(kAllLanes, sorted, 0) - __shfl_sync(kAllLanes, sorted, 31));
    int const middle = static_cast<int>(expected);
    crowd_ = low_rank >= middle + 4 && low_rank < 32 &&
             low == __shfl_sync(kAllLanes, sorted, min(middle, 31));
    crowd_value_ = low;
    if (low_rank > 31) low -= beyond;
    if (high_rank < 0) high += beyond;
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

  // Many samples around the k-th best are one value, as ReLU zeros would be.
  __device__ __forceinline__ bool is_crowded() const { return crowd_; }
  __device__ __forceinline__ float crowd() const { return crowd_value_; }

 private:
  float scale_;
  float offset_;
  float crowd_value_;
  bool crowd_;
};

// The bin of the rank-th best of the counted values, of which there are as many. By all threads,
// two bins each. Barriers: the warps' sums; the place.
__device__ __forceinline__ Place find_bin(SharedStorage& shared, uint32_t rank) {
  static_assert(kValueBins == 2 * kThreads);
  int const low = kValueBins - 2 - 2 * static_cast<int>(threadIdx.x);
  uint2 const pair = *reinterpret_cast<uint2 const*>(&shared.bins[low]);
  uint32_t const sum = pair.x + pair.y;
  uint32_t const inclusive = ptx::warp_inclusive_sum(sum);
  int const lane = threadIdx.x % 32;
  int const warp = threadIdx.x / 32;
  if (lane == 31) shared.warp_values[0][warp] = inclusive;
  __syncthreads();
  uint32_t const above =
      inclusive - sum + __reduce_add_sync(kAllLanes, lane < warp ? shared.warp_values[0][lane] : 0);
  if (above < rank && rank <= above + sum) {
    bool const upper = rank <= above + pair.y;
    shared.place = upper ? Place{static_cast<uint32_t>(low + 1), rank - above, pair.y}
                         : Place{static_cast<uint32_t>(low), rank - above - pair.y, pair.x};
  }
  __syncthreads();
  return shared.place;
}

}  // namespace dsa_ops::topk_sm90::binned
