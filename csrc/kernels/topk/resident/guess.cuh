// An interval of keys that probably holds a row's k-th best, from the best of 32 groups of samples.
#pragma once
#include <cstdint>

#include "kernels/topk/keys.cuh"
#include "kernels/topk/resident/row_part.cuh"
#include "kernels/topk/resident/traits.h"

namespace dsa_ops::topk_sm90::resident {

// With this many samples a group's best is below the k-th best of the row about as often as not.
__device__ __forceinline__ int group_samples(int span, int top_k) {
  float const samples = __fdividef(0.55f * span, top_k);
  return min(max(__float2int_rn(samples), 1), kMaxGroupSamples);
}

// Three deviations either way.
__device__ __forceinline__ GroupRanks group_ranks(int samples, int span, int top_k) {
  float const share = __fdividef(top_k, span);  // of the row's keys win
  float const below = kGroups * exp2f(samples * __log2f(1.0f - fminf(share, 0.99f)));
  float const margin = 3.0f * sqrtf(below * (1.0f - below / kGroups)) + 1.0f;
  return GroupRanks{max(static_cast<int>(below - margin), 0),
                    min(static_cast<int>(below + margin), kGroups - 1)};
}

// A thread's samples: a lane's of kGroups / kWarps groups. Those of a group are spread over the row,
// at a scrambled place each within equal parts of it, as a fixed distance could meet a period of
// the data.
template <LogitsType kType, int kThreads>
struct GroupSamples {
  static constexpr int kOwnGroups = kGroups / (kThreads / 32);
  static constexpr int kLoads = kMaxGroupSamples / 32;
  static_assert(kOwnGroups >= 1);

  float logits[kOwnGroups][kLoads];
  int places[kOwnGroups][kLoads];

  __device__ __forceinline__ GroupSamples(ElementOf<kType> const* row, int span, int size) {
    int const lane = threadIdx.x % 32;
    int const warp = threadIdx.x / 32;
    float const width = __fdividef(span, kGroups * size);
#pragma unroll
    for (int i = 0; i < kOwnGroups; ++i) {
#pragma unroll
      for (int j = 0; j < kLoads; ++j) {
        int const member = lane + 32 * j;
        uint32_t const part = member * kGroups + warp * kOwnGroups + i;
        float const scrambled = (part * 0x9E3779B1u >> 8) * 0x1p-24f;
        places[i][j] = min(static_cast<int>((part + scrambled) * width), span - 1);
        logits[i][j] = 0.0f;
        if (member < size && span > 0) logits[i][j] = load_logit<kType>(row + places[i][j]);
        if (member >= size) places[i][j] = span;
      }
    }
  }

  // The best of each group among the row's first `length` logits.
  __device__ __forceinline__ void write_best(uint32_t (&group_best)[kGroups], int length) const {
#pragma unroll
    for (int i = 0; i < kOwnGroups; ++i) {
      uint32_t best = kNoKey;
#pragma unroll
      for (int j = 0; j < kLoads; ++j) {
        best = max(best, places[i][j] < length ? key_of(logits[i][j]) : kNoKey);
      }
      best = __reduce_max_sync(kAllLanes, best);
      if (threadIdx.x % 32 == 0) group_best[threadIdx.x / 32 * kOwnGroups + i] = best;
    }
  }
};

// By one warp: the groups' bests of two ranks from the worst.
__device__ __forceinline__ void find_bounds(uint32_t& low, uint32_t& high,
                                            uint32_t const (&group_best)[kGroups],
                                            GroupRanks const& ranks) {
  int const lane = threadIdx.x % 32;
  // The low bits tell equal ones apart.
  uint32_t const mine = (group_best[lane] & ~31u) | lane;
  int less = 0;
#pragma unroll
  for (int i = 0; i < kGroups; i += 4) {
    uint4 const quad = *reinterpret_cast<uint4 const*>(&group_best[i]);
    less += ((quad.x & ~31u) | i) < mine ? 1 : 0;
    less += ((quad.y & ~31u) | (i + 1)) < mine ? 1 : 0;
    less += ((quad.z & ~31u) | (i + 2)) < mine ? 1 : 0;
    less += ((quad.w & ~31u) | (i + 3)) < mine ? 1 : 0;
  }
  if (less == ranks.low) low = max(mine & ~31u, 1);
  if (less == ranks.high) high = mine | 31u;
}

// Beyond four powers of two a guess is none: ReLU zeros under the best scores, for example.
__device__ __forceinline__ Interval guessed_interval(uint32_t low, uint32_t high) {
  constexpr uint32_t kWidest = 1u << 25;
  uint32_t const from = max(low, high - min(high - 1, kWidest));
  return Interval{from, ~from, round_shift(high - from)};
}

}  // namespace dsa_ops::topk_sm90::resident
