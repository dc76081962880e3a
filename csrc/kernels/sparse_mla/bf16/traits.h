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

// Rows of kHeadDim_ bf16 values, [num_keys, kHeadDim_], whose rows of queries attend one by one or
// in packs, or pages of them, [num_pages, page_size, kHeadDim_], with index lists that may be
// split. What a launch does not need is not in its kernel: what runs once a tile is fetched cold
// every time.
template <int kHeadDim_, bool kPacks_, bool kPaged_>
struct Bf16Source {
  static constexpr int kHeadDim = kHeadDim_;
  static constexpr bool kPacks = kPacks_;
  static constexpr bool kPaged = kPaged_;
};
template <int kHeadDim, bool kPacks>
using Bf16Rows = Bf16Source<kHeadDim, kPacks, false>;
using Bf16Cache = Bf16Source<576, false, true>;

using cute::SM90::GMMA::Major;
using ScoreMma = cute::SM90::GMMA::MMA_64x64x16_F32BF16BF16_SS<Major::K, Major::K>;
using ValueMma = cute::SM90::GMMA::MMA_64x256x16_F32BF16BF16_RS<Major::K, Major::MN>;

// Stage 0 holds the even block of a pair, stage 1 the odd one. Their left halves are dims 0 ...
// 255, the right ones the rest. Half w is freed by warpgroup w, whose values read it last. It is
// full by quarters of the dims, two panels each and the RoPE part with the last, so that scores
// start on the first.
enum Half : int { kLeft = 0, kRight = 1 };
// The half of a stage that is free first, and is therefore filled first and read by scores first:
// that of the warpgroup whose own probabilities the block's are, which need not wait for them.
constexpr Half first_half(int stage) { return stage == 0 ? kLeft : kRight; }
inline constexpr int kQuarters = 4;

template <int kQuarter, int kPanels>
struct QuarterPanels {
  static constexpr int kFirst = kQuarter * 2;
  static constexpr int kLast = kQuarter + 1 == kQuarters ? kPanels : kFirst + 2;
};

struct alignas(1024) SharedStorage {
  uint8_t query[kMaxPanels][kPanelBytes];
  uint8_t kv[2][kMaxPanels][kPanelBytes];
  // Between warps w of the two warpgroups only, which hold the same rows: the even block's, then
  // the odd one's.
  uint8_t probability[kPanelBytes];
  // What a block's probabilities are relative to, log2 units, by head.
  float reference[2][kTileHeads];
  // By parity of the tile and warpgroup: its share of the row sums, and its maxima.
  float sum[2][2][kTileHeads];
  float maximum[2][2][kTileHeads];
  // Bit i * 4 + j of word w: the row of the pack sees token i * 16 + w * 4 + j of the block.
  uint16_t valid[2][kMaxPackRows][4];
  uint64_t query_full[2];          // 128 arrivals: every producer thread's copies
  uint64_t query_empty;            // 8: one lane per consumer warp
  uint64_t kv_full[2][kQuarters];  // 128, and 4 more for the words of valid with the last one
  uint64_t kv_empty[2][2];         // 4: one lane per warp of the half's warpgroup
};
static_assert(sizeof(SharedStorage) <= 232448, "227 KB of shared memory of a block");

// Named barriers (0 is __syncthreads).
enum NamedBarrier : int {
  kTotalsReady = 1,  // both, once per tile
  // The score products of the block are under way.
  kEvenScoresIssued = 2,  // warpgroup 0 to 1
  kOddScoresIssued = 11,  // warpgroup 1 to 0
  // Plus w, between warps w: probabilities and references.
  kEvenReady = 3,  // warpgroup 0 to 1
  kOddReady = 7,   // warpgroup 1 to 0
};

}  // namespace dsa_ops::sparse_mla::bf16
