// Compile-time contract of the selection from listed candidates; for host code too.
#pragma once
#include <cstdint>

#include "kernels/indexer/traits.h"

namespace dsa_ops::topk_sm90::listed {

// A row's pages are scored a stratum of 32 equal ones after the other.
inline constexpr int kStrataLog2 = 5;
inline constexpr int kStrata = 1 << kStrataLog2;
// Pages of a part that are its sample, at most. Blocks of a multiprocessor take fewer by turns, so
// that they do not look for their gates at one time.
inline constexpr int kSamplePages = 32;
inline constexpr int kSampleSteps = 4;
inline constexpr int kSampleKeys = kSamplePages * indexer::kPageKeys;
inline constexpr int kGateBins = 2048;
inline constexpr uint32_t kPartCandidates = 4096;

// A selecting block holds a row's candidates, eight keys a thread.
inline constexpr int kThreads = 1024;
inline constexpr int kKeys = 8;
inline constexpr int kRowCandidates = kThreads * kKeys;
// Rows of a request that share its pages, and the head count whose tile of two rows leaves room for
// two samples.
inline constexpr int kMaxRowsOfRequest = 2;
inline constexpr int kPairHeads = 64;
// Blocks on a multiprocessor that score such rows.
constexpr int listing_blocks_per_sm(int rows) { return rows == 1 ? 4 : 2; }
template <int kHeads, int kRows>
using ListingTile = indexer::PagedTile<kHeads, kRows, false, listing_blocks_per_sm(kRows)>;

inline constexpr int32_t kMaxRows = 160;  // that select at once
// Parts of a row at most: what as many multiprocessors score at once.
inline constexpr int kMaxParts = kMaxRows * listing_blocks_per_sm(1);
inline constexpr int kMaxListedTopk = 2048;
// Groups of warps of a selecting block that score a row again.
inline constexpr int kScorers = 4;

// The bitmap of a row's winners, with what the gated kernel's takes more; whole quads.
__host__ __device__ constexpr int32_t bitmap_words(int32_t words) {
  return words + (words / 32 + 3) / 4 * 4;
}

// What a block lists of its part of a row.
struct ListedPart {
  uint32_t count;    // above kPartCandidates if not all fit
  uint32_t gate;     // key: this and better are listed
  uint32_t high;     // a key that few are better than
  int32_t zero_end;  // above 0: the gate is just above zero, and zeros before this are listed too
};

// Parts of requests are numbered as a walk along all of them meets them: either the request or the
// block is the next. Each is as many parts of rows as a request has rows.
__host__ __device__ inline int64_t part_index(int32_t request, int32_t block, int32_t rows,
                                              int32_t row) {
  return (static_cast<int64_t>(request) + block) * rows + row;
}

}  // namespace dsa_ops::topk_sm90::listed
