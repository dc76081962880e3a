// Compile-time contract of the selection from listed candidates; for host code too.
#pragma once
#include <cstdint>

#include "kernels/indexer/traits.h"
#include "kernels/topk/gated/traits.h"

namespace dsa_ops::topk_sm90::listed {

// A row's pages are scored in the order of their place in 32 equal strata.
inline constexpr int kStrata = 32;
// Keys of a part that are its sample: a page of each stratum.
inline constexpr int kSamplePages = kStrata;
inline constexpr int kSampleKeys = kSamplePages * indexer::kPageKeys;
inline constexpr int kGateBins = 1024;
inline constexpr int kPartCandidates = 4096;

// A selecting block, which holds a row's candidates like a gated one that has the row alone.
inline constexpr int kThreads = gated::kThreads;
inline constexpr int kRowCandidates = gated::max_candidates(1);
// Blocks that score at most, hence parts of a row: what 160 multiprocessors hold.
inline constexpr int kMaxParts = 640;
inline constexpr int32_t kMaxRows = 160;  // that select at once
inline constexpr int kMaxListedTopk = 2048;

// What a block lists of its part of a row.
struct ListedPart {
  uint32_t count;    // above kPartCandidates if not all fit
  uint32_t gate;     // key: this and better are listed
  uint32_t high;     // a key that few are better than
  int32_t zero_end;  // above 0: the gate is just above zero, and zeros before this are listed too
};

// Parts are numbered as a walk along all rows meets them: either the row or the block is the next.
__host__ __device__ inline int64_t part_index(int32_t row, int32_t block) {
  return static_cast<int64_t>(row) + block;
}

}  // namespace dsa_ops::topk_sm90::listed
