// Shared memory of the searches that the top-k kernels share; for host code too.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

namespace dsa_ops::topk_sm90 {

inline constexpr int kBinsLog2 = 11;
inline constexpr int kBins = 1 << kBinsLog2;
// Threads that search the bins, at most.
inline constexpr int kMaxSearchers = 512;
// Eight warps search those of a round.
inline constexpr int kSearchThreads = 256;
inline constexpr int kSearchWarps = kSearchThreads / 32;

struct Place {
  uint32_t bin;
  uint32_t rank;    // of the value sought, within the bin
  uint32_t inside;  // values in the bin
};

struct alignas(16) BinStorage {
  uint32_t bins[kBins];
  uint32_t warp_sums[kMaxSearchers / 32];
  Place low;
  Place high;
};

inline constexpr int kRoundBins = kSearchThreads;
inline constexpr int kRoundBinsLog2 = 8;
inline constexpr int kOtherBin = kRoundBins;  // of keys outside the interval; not read
inline constexpr int kRankedKeys = 64;
inline constexpr int kRankThreads = 4 * kRankedKeys;
// Of a whole selection: four resolve a key from nothing; before them a first interval may miss the
// k-th best twice (gated).
inline constexpr int kMaxRounds = 8;

// Where the rank-th best of the counted keys lies.
struct Crossing {
  uint32_t bin;            // kRoundBins if there are fewer keys
  uint32_t rank;           // within the bin; of the keys below if there are fewer
  uint32_t inside;         // keys in the bin
  uint32_t above_before;   // keys above the bin, of all rounds, in the blocks of lower rank
  uint32_t inside_before;  // keys in the bin in the blocks of lower rank
};

// Keys above the threshold win, and so do the first `ties` (by position) of those equal to it; if
// `settled`, all keys from the threshold on.
struct Verdict {
  uint32_t threshold;
  uint32_t ties;
  uint32_t greater_before;  // keys above the threshold in the blocks of lower rank
  uint32_t equal_before;    // keys that equal it there; if settled, what else wins there
  bool settled;
};

template <int kClusterSize>
struct alignas(16) SelectStorage {
  uint32_t bins[2][kRoundBins + 4];  // of even and odd rounds
  // A block's lie 8 words beyond those of the block before, in other banks.
  uint16_t gathered[2][kClusterSize > 1 ? kClusterSize : 0][kRoundBins + 16];
  alignas(16) uint32_t ranked[kRankedKeys];  // grouped by block
  uint32_t own_ranked[kClusterSize > 1 ? kRankedKeys : 0];
  uint64_t barriers[kMaxRounds + 1];
  uint2 warp_sums[2 * kSearchWarps];
  Crossing crossing;
  Verdict verdict;
  uint32_t num_ranked;
};

}  // namespace dsa_ops::topk_sm90
