// Compile-time contract of the form for 65 to 128 heads, two thread blocks of a cluster: each
// scores all tokens for its 64 heads and owns 256 output dims of all 128.
#pragma once
#include "device/ptx/cluster.cuh"
#include "kernels/sparse_mla/fp8/traits.h"

namespace dsa_ops::sparse_mla::fp8 {

inline constexpr int kPairHeads = 128;
inline constexpr int kPairSlots = 3;  // of 32 tokens' probabilities
// As few as do: what ptxas does with more slows the scores, see the README.
inline constexpr int kPairScoreRegisters = 144;
inline constexpr int kPairValueRegisters = 168;

// What one thread block scores.
struct PairTile : HeadTile<64> {
  // 128 output dims, all heads.
  using ValueMma = cute::SM90::GMMA::MMA_64x128x16_F32F16F16_RS<Major::K, Major::K>;
};

// What the references of a block's heads are raised by, as a factor of the output.
struct alignas(16) PairRescale {
  float factor[PairTile::kHeads];
  uint32_t any;  // whether any differs from 1
};

template <>
struct alignas(1024) SharedStorage<PairTile> {
  static constexpr int kStages = PairTile::kStages;

  uint8_t query[kQueryPanels][PairTile::kPanelBytes];
  // Of 32 tokens each, two steps of 16; a step by head, in the 32B swizzle. A thread block's own
  // heads of a step lie together, so that a warp's probabilities go to the other block in one copy.
  uint8_t probability[kPairSlots][2][2][PairTile::kHeads * 32];
  alignas(128) uint8_t token[kStages][kBlockTokens * kTokenPitch];
  alignas(16) uint16_t value_scale[kStages][kScaleGroups / 2][kBlockTokens];
  alignas(16) float2 column[PairTile::kHeads];
  alignas(16) float warp_result[4][PairTile::kHeads];
  alignas(16) float step[PairTile::kHeads];
  alignas(16) float output_factor[kPairHeads];
  PairRescale rescale[2][2];  // by block of tokens, and the thread block whose heads they are
  float2 weight[4][16];  // of the tokens of a warp of warpgroup 0: exponent, inverse (TokenScales)
  uint16_t exists[kStages][4];
  uint64_t token_full[kStages];        // 4 arrivals (gathering warps) and the bytes
  uint64_t token_empty[kStages];       // 12 arrivals: every other warp, its reads done
  uint64_t stage_free[kStages];        // 4 arrivals: the other block's gathering warps
  uint64_t value_scale_full[kStages];  // 4 arrivals: warpgroup 0
  uint64_t scores_done[2];             // 4 arrivals: warpgroup 0, its products of a block issued
  // By half of a block and parity of its number, 2 arrivals: warps of warpgroup 0. Not by slot: the
  // gathering warps of both halves take a slot in turn, and a warp that has not waited for a
  // barrier's last phase would take it for the one after.
  uint64_t probability_ready[2][2];
  // 2 arrivals (gathering warps) and the other block's probabilities, with the first 32 tokens of a
  // block its factors.
  uint64_t probability_full[kPairSlots];
  uint64_t probability_empty[kPairSlots];  // 16 arrivals: warpgroups 1 and 2 of both blocks
  uint64_t factor_full;                    // 2 arrivals and the other block's factors
  uint64_t factor_empty;                   // 16 arrivals: warpgroups 1 and 2 of both blocks
};

// A place in the ring of probabilities, carried from block to block and tile to tile.
struct SlotPlace {
  int slot;
  uint32_t parity = 0;

  template <int kSlots>
  __device__ __forceinline__ void advance() {
    slot += kSlots;
    if (slot >= kPairSlots) {
      slot -= kPairSlots;
      parity ^= 1;
    }
  }
};

}  // namespace dsa_ops::sparse_mla::fp8
