// Compile-time contract of the sparse MLA kernel: tiles, operand types, shared memory, roles.
#pragma once
#include <cstdint>
#include <cute/arch/mma_sm90_gmma.hpp>

namespace dsa_ops::sparse_mla {

inline constexpr int kTileHeads = 64;         // query heads of one block: the M of every wgmma
inline constexpr int kBlockTokens = 64;       // gathered tokens of one pipeline stage
inline constexpr int kPanelBytes = 64 * 128;  // 64 rows of 64 16-bit values, 128B swizzle
inline constexpr int kLatentPanels = 8;       // 512 dims
inline constexpr int kLatentDim = 512;
inline constexpr int kHalfDim = 256;  // output dims of one consumer warpgroup
inline constexpr int kStages = 2;

inline constexpr int kConsumerThreads = 256;  // warpgroups 0 and 1
inline constexpr int kProducerThreads = 128;  // warpgroup 2
inline constexpr int kThreads = kConsumerThreads + kProducerThreads;
// 2 * 208 + 88 = 504, the pool that a launch of 384 threads allocates.
inline constexpr int kConsumerRegisters = 208;
inline constexpr int kProducerRegisters = 88;
inline constexpr int kLaunchRegisters = 168;  // per thread before the warpgroups trade theirs

// bf16 rows [num_keys, kHeadDim_], used as they are.
template <int kHeadDim_>
struct Bf16Rows {
  static constexpr int kHeadDim = kHeadDim_;
  static constexpr bool kFp8Cache = false;
  using ScoreMma = cute::SM90::GMMA::MMA_64x64x16_F32BF16BF16_SS<cute::SM90::GMMA::Major::K,
                                                                 cute::SM90::GMMA::Major::K>;
  using RopeMma = ScoreMma;
  using OutputMmaFromRegisters =
      cute::SM90::GMMA::MMA_64x256x16_F32BF16BF16_RS<cute::SM90::GMMA::Major::K,
                                                     cute::SM90::GMMA::Major::MN>;
  using OutputMmaFromShared =
      cute::SM90::GMMA::MMA_64x256x16_F32BF16BF16_SS<cute::SM90::GMMA::Major::K,
                                                     cute::SM90::GMMA::Major::MN>;
};

// The 656-byte paged cache. The latent is converted to f16 (e4m3 is exact in f16, and the product
// with its scale keeps three bits more than bf16 would), the RoPE part stays bf16.
struct Fp8Cache {
  static constexpr int kHeadDim = 576;
  static constexpr bool kFp8Cache = true;
  using ScoreMma = cute::SM90::GMMA::MMA_64x64x16_F32F16F16_SS<cute::SM90::GMMA::Major::K,
                                                               cute::SM90::GMMA::Major::K>;
  using RopeMma = Bf16Rows<576>::ScoreMma;
  using OutputMmaFromRegisters =
      cute::SM90::GMMA::MMA_64x256x16_F32F16F16_RS<cute::SM90::GMMA::Major::K,
                                                   cute::SM90::GMMA::Major::MN>;
  using OutputMmaFromShared =
      cute::SM90::GMMA::MMA_64x256x16_F32F16F16_SS<cute::SM90::GMMA::Major::K,
                                                   cute::SM90::GMMA::Major::MN>;
};

template <class Source>
struct alignas(1024) SharedStorage {
  static constexpr int kPanels = Source::kHeadDim / 64;

  uint8_t query[kPanels][kPanelBytes];  // reused to stage the bf16 output
  uint8_t kv[kStages][kPanels][kPanelBytes];
  uint8_t probability[kPanelBytes];
  // Per gathered token, log2 units: score = product * token_scale + token_bias; -inf masks.
  float token_scale[kStages][kBlockTokens];    // 2^e            (FP8 cache only)
  float token_bias[kStages][kBlockTokens];     // e, 0 or -inf
  float token_inverse[kStages][kBlockTokens];  // 2^-e           (FP8 cache only)
  float query_scale[kTileHeads];               // undoes the power of two put on q (FP8 cache only)
  float rescale[kTileHeads];                   // of the output accumulators, warpgroup 0 -> 1
  float output_factor[kTileHeads];             // 1 / row sum (and the sink), warpgroup 0 -> 1
  uint64_t kv_full[kStages];   // 128 arrivals: every producer thread, its part of the stage written
  uint64_t kv_empty[kStages];  // 8 arrivals: one lane per consumer warp, its wgmmas done
};

// Named barriers (0 is __syncthreads).
enum NamedBarrier : int {
  kProbabilityReady = 1,  // warpgroup 0 arrives, warpgroup 1 waits
  kProbabilityFree = 2,   // warpgroup 1 arrives, warpgroup 0 waits
  kFactorReady = 3,       // warpgroup 0 arrives, warpgroup 1 waits
  kQueryReady = 4,        // both consumer warpgroups
  kOutputStaged = 5,      // 5 and 6: one consumer warpgroup each
};

}  // namespace dsa_ops::sparse_mla
