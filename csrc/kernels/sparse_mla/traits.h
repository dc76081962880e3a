// Compile-time contract of the sparse MLA kernel: tiles, operand types, shared memory, roles.
#pragma once
#include <cstdint>
#include <cute/arch/mma_sm90_gmma.hpp>

#include "kernels/sparse_mla/union.h"

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
// 2 * 200 + 104 = 504, the pool that a launch of 384 threads allocates.
inline constexpr int kConsumerRegisters = 200;
inline constexpr int kProducerRegisters = 104;
inline constexpr int kLaunchRegisters = 168;  // per thread before the warpgroups trade theirs

using cute::SM90::GMMA::Major;

// Rows of kHeadDim_ bf16 values, [num_keys, kHeadDim_], or [num_pages, page_size, kHeadDim_] if
// paged.
template <int kHeadDim_, bool kPaged_>
struct Bf16Source {
  static constexpr int kHeadDim = kHeadDim_;
  static constexpr bool kPaged = kPaged_;
  using ScoreMma = cute::SM90::GMMA::MMA_64x64x16_F32BF16BF16_SS<Major::K, Major::K>;
  using OutputMma = cute::SM90::GMMA::MMA_64x128x16_F32BF16BF16_RS<Major::K, Major::MN>;
};
template <int kHeadDim>
using Bf16Rows = Bf16Source<kHeadDim, false>;
using Bf16Cache = Bf16Source<576, true>;

template <class Source>
struct alignas(1024) SharedStorage {
  static constexpr int kPanels = Source::kHeadDim / 64;

  uint8_t query[kPanels][kPanelBytes];  // reused to stage the bf16 output
  uint8_t kv[kStages][kPanels][kPanelBytes];
  // Probabilities as A fragments, word i of a thread at [i][thread]. With a RoPE panel they lie
  // there: its last reader is the score product they come from.
  uint32_t probability[kPanels > kLatentPanels ? 0 : kStages][16 * 128];
  // By row of the pack: 0, or -inf where it selects no token. Padded, so that the eight lanes of a
  // token write to different banks.
  float bias[kStages][kMaxPackRows][kBlockTokens + 4];
  // From warpgroup 0 to 1: the factor of what was accumulated before a stage's block, and the last
  // one, 1 / row sum (and the sink).
  float rescale[kStages][kTileHeads];
  float output_factor[kTileHeads];
  PackTile pack_tile;
  uint64_t kv_full[kStages];   // 256 arrivals: every producer thread once for its copies in flight
                               // and once for its writes
  uint64_t kv_empty[kStages];  // 8 arrivals: one lane per consumer warp, its reads done
  uint64_t probability_full[kStages];  // 128 arrivals: warpgroup 0, probabilities and rescale
                                       // written; kv_empty of the stage frees them

  __device__ __forceinline__ uint32_t* probability_of(int stage) {
    if constexpr (kPanels > kLatentPanels) {
      return reinterpret_cast<uint32_t*>(kv[stage][kLatentPanels]);
    } else {
      return probability[stage];
    }
  }
};

// Named barriers (0 is __syncthreads).
enum NamedBarrier : int {
  kFactorReady = 1,   // both consumer warpgroups; once
  kQueryReady = 2,    // both consumer warpgroups; once
  kOutputStaged = 3,  // 3 and 4: one consumer warpgroup each; once
};

}  // namespace dsa_ops::sparse_mla
