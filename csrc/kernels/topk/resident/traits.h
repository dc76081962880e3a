// Compile-time contract of the resident selection: tiles of keys, radix digits, shared memory.
#pragma once
#include <cstdint>

#include "kernels/topk/traits.h"

namespace dsa_ops::topk_sm90::resident {

// A thread compacts one group of 32 consecutive keys, a block one tile of them at a time.
inline constexpr int kGroupKeys = 32;
inline constexpr int kTileKeys = kThreads * kGroupKeys;

// 32-bit keys are resolved from the top in digits of 11, 11 and 10 bits.
inline constexpr int kRounds = 3;
__host__ __device__ constexpr int digit_shift(int round) {
  return round == 0 ? 21 : round == 1 ? 10 : 0;
}

inline constexpr int kMaxClusterSize = 8;  // the portable limit

// What is known after a round, the same in every block of the cluster but for the `_before` counts.
struct Selection {
  uint32_t threshold;       // its resolved digits, zeros below: keys under it lose
  uint32_t remaining;       // how many keys of the threshold's bin win
  uint32_t greater_before;  // keys above the bin in the blocks of lower rank
  uint32_t equal_before;    // keys inside the bin in the blocks of lower rank
  uint32_t settled;         // every key of the bin wins: no further digit matters
};

// Followed by the keys (capacity x 4 bytes) and the winners' positions (top_k x 4 bytes).
struct alignas(128) SharedStorage {
  // Rounds alternate, so that peers read one while the other is prepared.
  uint32_t histogram[2][kBins];
  uint32_t coarse[2][kCoarseBins];  // sums of 32 bins
  uint32_t warp_totals[2][kWarps];
  Selection selection;
};

}  // namespace dsa_ops::topk_sm90::resident
