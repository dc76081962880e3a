// The winners of a staged row in ascending order: a mask of each thread's, ranked by prefix sums.
#pragma once
#include <cstdint>

#include "device/ptx/warp.cuh"
#include "kernels/topk/block_scan.cuh"
#include "kernels/topk/staged/staged_row.cuh"
#include "kernels/topk/staged/traits.h"

namespace dsa_ops::topk_sm90::staged {

// Positions ascend by warp, tile, lane and place in the packet. Bit tile * kLogits + i of a mask is
// logit i of the lane's packet. Sums of even and of odd tiles lie in fields of two words.
template <int kLogits>
struct MaskRanks {
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
    uint32_t counts = mask - (mask >> 1 & 0x55555555u);  // of every tile, in kLogits bits
    counts = (counts & 0x33333333u) + (counts >> 2 & 0x33333333u);
    if constexpr (kLogits == 8) counts = (counts & 0x0F0F0F0Fu) + (counts >> 4 & 0x0F0F0F0Fu);
    constexpr uint32_t kEven = kLogits == 4 ? 0x0F0F0F0Fu : 0x00FF00FFu;
    uint32_t warp_sum = 0;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      uint32_t const own = counts >> kLogits * i & kEven;
      uint32_t const inclusive = ptx::warp_inclusive_sum(own);
      before[i] = inclusive - own;
      sums[i] = __shfl_sync(kAllLanes, inclusive, 31);
#pragma unroll
      for (int shift = 0; shift < 32; shift += kField) warp_sum += sums[i] >> shift & kFieldMask;
    }
    if (lane == 0) warp_sums[warp] = warp_sum;
    __syncthreads();
    uint32_t const sum = lane < kWarps ? warp_sums[lane] : 0;
    first = __reduce_add_sync(kAllLanes, lane < warp ? sum : 0);
    total = __reduce_add_sync(kAllLanes, sum);
  }

  // Calls take(rank, tile) for every tile: the rank of the first bit of this lane.
  template <class Take>
  __device__ __forceinline__ void visit(int tiles, Take const& take) const {
    uint32_t tile_first = first;
#pragma unroll 1
    for (int pair = 0; pair < tiles; pair += 2) {
      int const shift = pair / 2 * kField;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        take(tile_first + (before[i] >> shift & kFieldMask), pair + i);
        tile_first += sums[i] >> shift & kFieldMask;
      }
    }
  }
};

// Masks of the keys from the threshold on and, if asked for, of those equal to it.
template <bool kTies, LogitsType kType>
__device__ __forceinline__ uint2 masks_of(StagedRow<kType>& row, uint32_t threshold) {
  constexpr int kLogits = Packet<kType>::kLogits;
  uint2 masks = make_uint2(0, 0);
  row.visit([&](auto const& keys, int tile) {
    uint2 bits = make_uint2(0, 0);
#pragma unroll
    for (int i = 0; i < kLogits; ++i) {
      bits.x |= keys[i] >= threshold ? 1u << i : 0;
      if constexpr (kTies) bits.y |= keys[i] == threshold ? 1u << i : 0;
    }
    masks.x |= bits.x << tile * kLogits;
    masks.y |= bits.y << tile * kLogits;
  });
  return masks;
}

// The bits of `mask` whose rank among all is below `end`. One barrier.
template <int kLogits>
__device__ __forceinline__ uint32_t first_bits(uint32_t (&warp_sums)[kWarps], int tiles,
                                               uint32_t mask, uint32_t end) {
  MaskRanks<kLogits> const ranks(warp_sums, mask);
  uint32_t kept = 0;
  ranks.visit(tiles, [&](uint32_t rank, int tile) {
#pragma unroll
    for (int i = 0; i < kLogits; ++i) {
      uint32_t const bit = mask & (1u << i) << tile * kLogits;
      if (bit != 0 && rank < end) kept |= bit;
      rank += bit != 0 ? 1 : 0;
    }
  });
  return kept;
}

// Writes the winners' positions to the row's own memory, in order, and returns their number.
// Barriers: one, and another if ties have to be told apart; the caller has one behind.
template <LogitsType kType>
__device__ __forceinline__ uint32_t order_winners(StagedRow<kType>& row,
                                                  uint32_t (&warp_sums)[2][kWarps],
                                                  Verdict const& verdict) {
  constexpr int kLogits = Packet<kType>::kLogits;
  uint32_t const threshold = verdict.threshold;
  uint32_t mask;
  if (verdict.settled) {
    mask = masks_of<false>(row, threshold).x;
  } else {
    uint2 const masks = masks_of<true>(row, threshold);
    uint32_t const first = first_bits<kLogits>(warp_sums[0], row.warp_tiles, masks.y, verdict.ties);
    mask = masks.x ^ masks.y ^ first;
  }
  MaskRanks<kLogits> const ranks(warp_sums[1], mask);
  int32_t* const winners = reinterpret_cast<int32_t*>(row.packets);
  ranks.visit(row.warp_tiles, [&](uint32_t rank, int tile) {
    int32_t* place = winners + rank;
    int const position = row.first(tile);
    uint32_t const bits = mask >> tile * kLogits;
#pragma unroll
    for (int i = 0; i < kLogits; ++i) {
      if (bits & 1u << i) *place++ = position + i;
    }
  });
  return ranks.total;
}

}  // namespace dsa_ops::topk_sm90::staged
