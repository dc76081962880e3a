// Compile-time contract of the kernel for one row's 64 heads that takes its tokens in pairs of
// blocks: tiles, operand types, shared memory, barriers, roles.
#pragma once
#include <cstdint>
#include <cute/arch/mma_sm90_gmma.hpp>

#include "kernels/sparse_mla/plan.h"

namespace dsa_ops::sparse_mla::bf16 {

// The M of every wgmma is kTileHeads; a stage holds kBlockTokens, and two of them are a pair.
static_assert(kTileHeads == 64 && kBlockTokens == 64);
inline constexpr int kPanelBytes = 64 * 128;  // 64 rows of 64 bf16 values, 128B swizzle
inline constexpr int kMaxPanels = 9;          // 576 dims
inline constexpr int kHalfPanels = 4;         // output dims of one warpgroup: 256
inline constexpr int kLatentDim = 512;

inline constexpr int kConsumerThreads = 256;  // warpgroups 0 and 1
inline constexpr int kProducerThreads = 128;  // warpgroup 2
inline constexpr int kThreads = kConsumerThreads + kProducerThreads;
// 2 * 216 + 72 = 504, the pool that a launch of 384 threads allocates.
inline constexpr int kConsumerRegisters = 216;
inline constexpr int kProducerRegisters = 72;
inline constexpr int kLaunchRegisters = 168;  // per thread before the warpgroups trade theirs

// Rows of kHeadDim_ bf16 values, [num_keys, kHeadDim_], or [num_pages, page_size, kHeadDim_] if
// paged.
template <int kHeadDim_, bool kPaged_>
struct Bf16Source {
  static constexpr int kHeadDim = kHeadDim_;
  static constexpr bool kPaged = kPaged_;
};
template <int kHeadDim>
using Bf16Rows = Bf16Source<kHeadDim, false>;
using Bf16Cache = Bf16Source<576, true>;

using cute::SM90::GMMA::Major;
using ScoreMma = cute::SM90::GMMA::MMA_64x64x16_F32BF16BF16_SS<Major::K, Major::K>;
using OwnMma = cute::SM90::GMMA::MMA_64x256x16_F32BF16BF16_RS<Major::K, Major::MN>;
using OtherMma = cute::SM90::GMMA::MMA_64x256x16_F32BF16BF16_SS<Major::K, Major::MN>;

// Stage 0 holds the even block of a pair, stage 1 the odd one. Their left halves are dims 0 ...
// 255, the right ones the rest; each is filled and freed by itself.
enum Half : int { kLeft = 0, kRight = 1 };

struct alignas(1024) SharedStorage {
  uint8_t query[kMaxPanels][kPanelBytes];
  uint8_t kv[2][kMaxPanels][kPanelBytes];
  uint8_t odd_probability[kPanelBytes];
  // What a block's probabilities are relative to, log2 units, by head.
  float reference[2][kTileHeads];
  // By parity of the tile and warpgroup: its share of the row sums, and its maxima.
  float sum[2][2][kTileHeads];
  float maximum[2][2][kTileHeads];
  // Bit i * 4 + j of word w: the row of the pack sees token i * 16 + w * 4 + j of the block.
  uint16_t valid[2][kMaxPackRows][4];
  uint64_t query_full[2];   // 128 arrivals: every producer thread's copies
  uint64_t query_empty;     // 8: one lane per consumer warp
  uint64_t kv_full[2][2];   // 128, and 4 more for the words of valid with the right half
  uint64_t kv_empty[2][2];  // 4: one lane per warp of the warpgroup that reads the half last

  // The even block's probabilities lie where its RoPE panel was: its last reader is the score
  // product that they come from, and both are free with the right half.
  __device__ __forceinline__ uint8_t* even_probability() { return kv[0][kMaxPanels - 1]; }
};
static_assert(sizeof(SharedStorage) <= 232448, "227 KB of shared memory of a block");

// Named barriers (0 is __syncthreads).
enum NamedBarrier : int {
  kEvenReady = 1,     // warpgroup 0 to 1: the even block's probabilities and reference
  kOddReady = 2,      // warpgroup 1 to 0: the odd block's
  kTotalsReady = 3,   // both, once per tile
  kScoresRead = 4,    // warpgroup 0: no warp reads the RoPE panel any more
  kScoresIssued = 5,  // warpgroup 0 to 1: the even block's score products are under way
};

}  // namespace dsa_ops::sparse_mla::bf16
