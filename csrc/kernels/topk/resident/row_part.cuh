// The part of a row that a block holds in registers, and its winners in ascending order.
#pragma once
#include <cstdint>
#include <type_traits>

#include "dsa_ops/topk.h"
#include "kernels/topk/block_scan.cuh"
#include "kernels/topk/cluster_select.cuh"
#include "kernels/topk/keys.cuh"

namespace dsa_ops::topk_sm90::resident {

template <LogitsType kType>
using ElementOf = std::conditional_t<kType == LogitsType::kFloat32, uint32_t, uint16_t>;

template <LogitsType kType>
__device__ __forceinline__ float load_logit(ElementOf<kType> const* address) {
  return __uint_as_float(static_cast<uint32_t>(*address)
                         << (kType == LogitsType::kFloat32 ? 0 : 16));
}

// A warp holds neighbouring logits, a lane every 32nd of them, so that a ballot of the lanes' i-th
// keys has their order.
template <int kThreads, int kKeys>
struct RowPart {
  int begin;  // in the row
  int count;

  __device__ RowPart(int span, int rank, int cluster_size) {
    int const length = (span + cluster_size - 1) / cluster_size;
    begin = rank * length;
    count = max(min(span - begin, length), 0);
  }
  __device__ __forceinline__ int index(int i) const {
    int const thread = static_cast<int>(threadIdx.x);
    return thread / 32 * (32 * kKeys) + thread % 32 + 32 * i;
  }
  template <LogitsType kType>
  __device__ __forceinline__ void load(float (&logits)[kKeys], ElementOf<kType> const* row) const {
    ElementOf<kType> const* const own = row + begin + index(0);
#pragma unroll
    for (int i = 0; i < kKeys; ++i) {
      logits[i] = 0.0f;
      if (index(i) < count) logits[i] = load_logit<kType>(own + 32 * i);
    }
  }
  // kNoKey for what the row does not reach.
  __device__ __forceinline__ void make_keys(uint32_t (&keys)[kKeys], float const (&logits)[kKeys],
                                            int length) const {
    int const valid = min(length - begin, count);
#pragma unroll
    for (int i = 0; i < kKeys; ++i) keys[i] = index(i) < valid ? key_of(logits[i]) : kNoKey;
  }
};

// Calls emit(rank, i) for this thread's winning keys: rank counts the block's winners. Barriers: the
// warps' sums; if ties have to be told apart, those of the ties before.
template <int kThreads, int kKeys, class Emit>
__device__ __forceinline__ void emit_winners(uint32_t (&warp_sums)[2][kThreads / 32],
                                             uint32_t const (&keys)[kKeys], Verdict const& verdict,
                                             Emit const& emit) {
  int const lane = threadIdx.x % 32;
  int const warp = threadIdx.x / 32;
  uint32_t const below_lane = (1u << lane) - 1;
  auto const sum_before = [&](uint32_t (&sums)[kThreads / 32], uint32_t sum) {
    if (lane == 0) sums[warp] = sum;
    __syncthreads();
    return __reduce_add_sync(kAllLanes, lane < warp ? sums[lane] : 0);
  };
  uint32_t wins = 0;  // bit i: keys[i]
#pragma unroll
  for (int i = 0; i < kKeys; ++i) {
    wins |= keys[i] > verdict.threshold || (verdict.settled && keys[i] == verdict.threshold)
                ? 1u << i
                : 0;
  }
  if (!verdict.settled) {
    uint32_t equal = 0;
#pragma unroll
    for (int i = 0; i < kKeys; ++i) {
      equal += __popc(__ballot_sync(kAllLanes, keys[i] == verdict.threshold));
    }
    uint32_t rank = verdict.equal_before + sum_before(warp_sums[1], equal);
#pragma unroll
    for (int i = 0; i < kKeys; ++i) {
      uint32_t const ties = __ballot_sync(kAllLanes, keys[i] == verdict.threshold);
      bool const tie = keys[i] == verdict.threshold;
      if (tie && rank + __popc(ties & below_lane) < verdict.ties) wins |= 1u << i;
      rank += __popc(ties);
    }
  }
  uint32_t count = 0;
#pragma unroll
  for (int i = 0; i < kKeys; ++i) count += __popc(__ballot_sync(kAllLanes, wins >> i & 1));
  uint32_t rank = sum_before(warp_sums[0], count);
#pragma unroll
  for (int i = 0; i < kKeys; ++i) {
    uint32_t const winners = __ballot_sync(kAllLanes, wins >> i & 1);
    if (wins >> i & 1) emit(rank + __popc(winners & below_lane), i);
    rank += __popc(winners);
  }
}

// Where this block's winners begin in the row's.
__device__ __forceinline__ uint32_t first_winner(Verdict const& verdict) {
  return verdict.greater_before + (verdict.settled ? verdict.equal_before
                                                   : min(verdict.equal_before, verdict.ties));
}

}  // namespace dsa_ops::topk_sm90::resident
