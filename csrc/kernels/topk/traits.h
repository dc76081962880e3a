// Compile-time contract of the top-k kernels: block shape, radix digits, shared memory and the
// arguments a launch carries.
#pragma once
#include <cstdint>

#include "dsa_ops/topk.h"

namespace dsa_ops::topk_sm90 {

inline constexpr int kThreads = 512;
inline constexpr int kWarps = kThreads / 32;
// Two blocks share a multiprocessor's registers, if their shared memory fits too.
inline constexpr int kMinBlocks = 2;
inline constexpr int kMaxRegisters = 65536 / (kThreads * kMinBlocks) / 8 * 8;

// A thread compacts one group of 32 consecutive keys, a block one tile of them at a time.
inline constexpr int kGroupKeys = 32;
inline constexpr int kTileKeys = kThreads * kGroupKeys;

// 32-bit keys are resolved from the top in digits of 11, 11 and 10 bits.
inline constexpr int kRounds = 3;
inline constexpr int kBins = 2048;
inline constexpr int kCoarseBins = kBins / 32;
__host__ __device__ constexpr int digit_shift(int round) {
  return round == 0 ? 21 : round == 1 ? 10 : 0;
}

inline constexpr int kMaxClusterSize = 8;  // the portable limit
inline constexpr int kPageTokens = 64;

// What is known after a round, the same in every block of the cluster but for the `_before` counts.
struct Selection {
  uint32_t threshold;       // its resolved digits, zeros below: keys under it lose
  uint32_t remaining;       // how many keys of the threshold's bin win
  uint32_t greater_before;  // keys above the bin in the blocks of lower rank
  uint32_t equal_before;    // keys inside the bin in the blocks of lower rank
  uint32_t settled;         // every key of the bin wins: no further digit matters
};

// Followed by the keys (capacity_keys x 4 bytes) and the winners' positions (top_k x 4 bytes).
struct alignas(128) SharedStorage {
  // Rounds alternate, so that peers read one while the other is prepared.
  uint32_t histogram[2][kBins];
  uint32_t coarse[2][kCoarseBins];  // sums of 32 bins
  uint32_t warp_totals[2][kWarps];
  Selection selection;
};

inline constexpr int kMaxSharedBytes = 232448;

struct KernelArgs {
  void const* logits;
  int64_t logits_row_stride;
  int32_t const* row_starts;
  int32_t const* row_ends;
  int32_t* indices;
  int64_t indices_row_stride;
  bool to_slots;
  int32_t const* block_table;
  int64_t block_table_stride;
  int64_t num_requests;
  int64_t pages_per_request;
  int32_t const* row_to_request;
  int32_t rows_per_request;
  int32_t num_columns;
  int32_t top_k;
  int32_t capacity_keys;
};

}  // namespace dsa_ops::topk_sm90
