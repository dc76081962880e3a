// Compile-time contract of the FP8-cache kernel: tiles, shared memory, barriers, roles.
#pragma once
#include <cstdint>
#include <cute/arch/mma_sm90_gmma.hpp>

namespace dsa_ops::sparse_mla::fp8 {

inline constexpr int kTokenBytes = 656;
inline constexpr int kScaleOffset = 512;
inline constexpr int kRopeOffset = 528;
// Pitch of a token in shared memory, 32 bytes past a multiple of 128: with the token order of
// token_of_row, neither kind of fragment load meets a bank conflict.
inline constexpr int kTokenPitch = 672;
inline constexpr int kBlockTokens = 64;  // of one stage
inline constexpr int kQueryPanels = 9;   // of 64 dims; the last is the RoPE part
inline constexpr int kScaleGroups = 4;   // of 128 latent dims
inline constexpr int kMaxSplits = 16;    // blocks of a cluster

// 4 * (kScoreRegisters + 2 * kValueRegisters + kGatherRegisters) warps' registers are what a launch
// of 512 threads allocates: 512 times 128.
inline constexpr int kThreads = 512;
inline constexpr int kScoreRegisters = 136;
inline constexpr int kValueRegisters = 176;
inline constexpr int kGatherRegisters = 24;
inline constexpr int kLaunchRegisters = 128;  // per thread before the warpgroups trade theirs

// Whether the splits of an index list are thread blocks of their own, and how their parts are
// joined: pushed between the blocks of a cluster, two or three of them another way, or by a second
// kernel from scratch.
enum class Split { kNone, kCluster, kTwo, kThree, kScratch };

constexpr bool is_few(Split split) { return split == Split::kTwo || split == Split::kThree; }
constexpr bool is_cluster(Split split) { return split == Split::kCluster || is_few(split); }

using cute::SM90::GMMA::Major;

namespace detail {
namespace gmma = cute::SM90::GMMA;
template <int kHeads>
struct Instructions;
template <>
struct Instructions<8> {
  using Half = gmma::MMA_64x8x16_F32F16F16_RS<Major::K, Major::K>;
  using Bfloat = gmma::MMA_64x8x16_F32BF16BF16_RS<Major::K, Major::K>;
};
template <>
struct Instructions<16> {
  using Half = gmma::MMA_64x16x16_F32F16F16_RS<Major::K, Major::K>;
  using Bfloat = gmma::MMA_64x16x16_F32BF16BF16_RS<Major::K, Major::K>;
};
template <>
struct Instructions<32> {
  using Half = gmma::MMA_64x32x16_F32F16F16_RS<Major::K, Major::K>;
  using Bfloat = gmma::MMA_64x32x16_F32BF16BF16_RS<Major::K, Major::K>;
};
template <>
struct Instructions<64> {
  using Half = gmma::MMA_64x64x16_F32F16F16_RS<Major::K, Major::K>;
  using Bfloat = gmma::MMA_64x64x16_F32BF16BF16_RS<Major::K, Major::K>;
};
}  // namespace detail

// kHeads query heads of one row: the N of every wgmma.
template <int kHeads_>
struct HeadTile {
  // Whether a thread block with one list asks for its first entries before its roles part, and
  // finds pages without a division. With 64 heads tokens sooner are a query, which is as much,
  // later.
  static constexpr bool kShortStart = kHeads_ < 64;
  static constexpr int kHeads = kHeads_;
  static constexpr int kStages = kHeads == 64 ? 3 : 4;
  static constexpr int kPanelBytes = kHeads * 128;  // 64 16-bit values per head, 128B swizzle
  static constexpr int kColumns = kHeads / 4;       // heads that a thread's accumulators belong to
  using LatentMma = typename detail::Instructions<kHeads>::Half;
  using RopeMma = typename detail::Instructions<kHeads>::Bfloat;
};

template <class HeadTile>
struct alignas(1024) SharedStorage {
  static constexpr int kHeads = HeadTile::kHeads;
  static constexpr int kStages = HeadTile::kStages;

  // Later this split's own part of the output that it joins: see parts.cuh.
  uint8_t query[kQueryPanels][HeadTile::kPanelBytes];
  uint8_t probability[2][HeadTile::kPanelBytes];  // by head, 64 tokens each
  alignas(128) uint8_t token[kStages][kBlockTokens * kTokenPitch];
  // In the order in which warpgroups 1 and 2 take tokens: see value_scale_position.
  alignas(16) uint16_t value_scale[kStages][kScaleGroups][kBlockTokens];
  // Per head: the factor of its scores (undoes the power of two put on q), minus the reference of
  // its probabilities.
  alignas(16) float2 column[kHeads];
  alignas(16) float warp_result[4][kHeads];  // of one warp's tokens
  alignas(16) float step[kHeads];            // what a reference is raised by
  // Sums of probabilities, of two heads and a thread's own tokens: warpgroup 0 has no registers
  // for them.
  float2 sum[kHeads / 8][128];
  alignas(16) float output_factor[kHeads];
  // Of every split (of every other one: see few_parts.cuh), by head of those that this block joins:
  // reference and sum, later the weight.
  alignas(16) float2 peer[kHeads + 2 * kMaxSplits];
  alignas(16) float rescale[2][kHeads];
  uint32_t rescales[2];  // whether any of `rescale` differs from 1
  uint16_t exists[kStages][4];
  uint64_t token_full[kStages];        // 4 arrivals (gathering warps) and the bytes
  uint64_t token_empty[kStages];       // 12 arrivals: every other warp, its reads done
  uint64_t value_scale_full[kStages];  // 4 arrivals: warpgroup 0
  uint64_t scores_done[2];             // 4 arrivals: warpgroup 0, its products of a block over
  uint64_t probability_full[2];        // 4 arrivals: warpgroup 0
  uint64_t probability_empty[2];       // 8 arrivals: warpgroups 1 and 2
  uint64_t sums_full, parts_full;      // 1 arrival and the bytes of all parts to join

  __device__ __forceinline__ void put_value_scale(int stage, int group, int position,
                                                  uint16_t scale) {
    value_scale[stage][group][position] = scale;
  }
};

// Named barriers (0 is __syncthreads).
enum NamedBarrier : int {
  kQueryReady = 1,     // warpgroups 0, 1, 2; once
  kFactorReady = 2,    // warpgroups 0, 1, 2 (of Split::kTwo, 0 and the one that joins); once a tile
  kScoreVote = 3,      // warpgroup 0
  kBarriersReady = 4,  // warpgroups 0, 3; once
  kFactorFree = 5,     // warpgroups 0, 1, 2; once a tile but the last
  // Where warpgroup 3 scores, too:
  kSecondQueryReady = 6,  // warpgroups 1, 2, 3; once
  kSecondVote = 7,        // warpgroup 3
  kSumsReady = 8,         // warpgroups 0, 3; once
};

}  // namespace dsa_ops::sparse_mla::fp8
