// A block's winners in ascending order: a mask of each thread's, ranked by prefix sums.
#pragma once
#include <cstdint>

#include "kernels/topk/block_scan.cuh"
#include "kernels/topk/cluster_select.cuh"
#include "kernels/topk/staged/staged_slice.cuh"

namespace dsa_ops::topk_sm90::staged {

// Positions within a slice ascend by warp, tile, lane and packet. Bit tile * kLogits + i of a mask
// is logit i of the lane's packet. Sums of even and of odd tiles lie in fields of two words each.
template <int kThreads, int kLogits>
struct MaskRanks {
  static constexpr int kWarps = kThreads / 32;
  static constexpr int kField = 2 * kLogits;
  static constexpr uint32_t kFieldMask = (1u << kField) - 1;

  uint32_t before[2];  // in lower lanes
  uint32_t sums[2];    // of the warp
  uint32_t first;      // in lower warps
  uint32_t total;

  // One barrier; two in a row need different `warp_sums`.
  __device__ __forceinline__ MaskRanks(uint32_t (&warp_sums)[kWarps], uint32_t mask) {
    int const lane = threadIdx.x % 32;
    int const warp = threadIdx.x / 32;
    uint32_t counts = mask - (mask >> 1 & 0x55555555u);
    counts = (counts & 0x33333333u) + (counts >> 2 & 0x33333333u);
    if constexpr (kLogits == 8) counts = (counts & 0x0F0F0F0Fu) + (counts >> 4 & 0x0F0F0F0Fu);
    constexpr uint32_t kEven = kLogits == 4 ? 0x0F0F0F0Fu : 0x00FF00FFu;
    uint32_t all = 0;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      uint32_t const own = counts >> kLogits * i & kEven;
      uint32_t const inclusive = ptx::warp_inclusive_sum(own, lane);
      before[i] = inclusive - own;
      sums[i] = __shfl_sync(kAllLanes, inclusive, 31);
#pragma unroll
      for (int field = 0; field < 32 / kField; ++field) all += sums[i] >> field * kField & kFieldMask;
    }
    if (lane == 0) warp_sums[warp] = all;
    __syncthreads();
    uint32_t const sum = lane < kWarps ? warp_sums[lane] : 0;
    first = __reduce_add_sync(kAllLanes, lane < warp ? sum : 0);
    total = __reduce_add_sync(kAllLanes, sum);
  }

  // Calls emit(rank, tile) for every tile: the rank of its first winner of this lane.
  template <class Emit>
  __device__ __forceinline__ void visit(int tiles, Emit const& emit) const {
    uint32_t tile_first = first;
#pragma unroll 1
    for (int pair = 0; pair < tiles; pair += 2) {
      int const shift = pair / 2 * kField;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        emit(tile_first + (before[i] >> shift & kFieldMask), pair + i);
        tile_first += sums[i] >> shift & kFieldMask;
      }
    }
  }
};

// Of `mask` the first `wanted` bits, by position in the slice.
template <int kThreads, int kLogits>
__device__ __forceinline__ uint32_t first_bits(MaskRanks<kThreads, kLogits> const& ranks,
                                               int tiles, uint32_t mask, uint32_t wanted) {
  uint32_t kept = 0;
  ranks.visit(tiles, [&](uint32_t rank, int tile) {
#pragma unroll
    for (int i = 0; i < kLogits; ++i) {
      uint32_t const bit = mask & (1u << i) << tile * kLogits;
      if (bit != 0 && rank < wanted) kept |= bit;
      rank += bit != 0 ? 1 : 0;
    }
  });
  return kept;
}

// Writes the winners' positions in the row to the slice's own memory, in order, and returns their
// number. Barriers: one, and another if ties have to be told apart; the caller has one behind.
template <LogitsType kType, int kThreads>
__device__ __forceinline__ uint32_t order_winners(StagedSlice<kType, kThreads>& slice,
                                                  uint32_t (&warp_sums)[2][kThreads / 32],
                                                  Verdict const& verdict) {
  constexpr int kLogits = Packet<kType>::kLogits;
  uint32_t mask = 0;
  uint32_t equal = 0;
  slice.visit([&](auto const& keys, int tile) {
    uint32_t bits = 0;
    uint32_t equal_bits = 0;
#pragma unroll
    for (int i = 0; i < kLogits; ++i) {
      if (keys[i] >= verdict.threshold) bits |= 1u << i;
      if (keys[i] == verdict.threshold) equal_bits |= 1u << i;
    }
    mask |= bits << tile * kLogits;
    equal |= equal_bits << tile * kLogits;
  });
  if (!verdict.settled) {
    MaskRanks<kThreads, kLogits> const ties(warp_sums[0], equal);
    uint32_t const wanted = verdict.ties - min(verdict.ties, verdict.equal_before);
    mask ^= equal ^ first_bits(ties, slice.warp_tiles, equal, wanted);
  }
  MaskRanks<kThreads, kLogits> const ranks(warp_sums[1], mask);
  int32_t* const winners = reinterpret_cast<int32_t*>(slice.packets);
  ranks.visit(slice.warp_tiles, [&](uint32_t rank, int tile) {
    int32_t* place = winners + rank;
    int const position = slice.begin + slice.first(tile);
    uint32_t const bits = mask >> tile * kLogits;
#pragma unroll
    for (int i = 0; i < kLogits; ++i) {
      if (bits & 1u << i) *place++ = position + i;
    }
  });
  return ranks.total;
}

}  // namespace dsa_ops::topk_sm90::staged
