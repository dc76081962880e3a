// Compile-time contract of the staged selection: block shape, sample, shared memory.
#pragma once
#include <cstdint>

#include "kernels/topk/storage.h"

namespace dsa_ops::topk_sm90::staged {

// A warp reads a tile at a time, 16 bytes a lane.
inline constexpr int kTileBytes = 32 * 16;
// Which keys of a thread win is one word.
inline constexpr int kThreadLogits = 32;
inline constexpr int kSamples = 1024;
// Parts of the slice that are waited for alone; each belongs to some of the warps.
constexpr int num_parts(int cluster_size) { return cluster_size == 1 ? 1 : 8; }

// Followed by the slice, whose place the winners' positions take.
template <int kClusterSize, int kThreads>
struct alignas(128) SharedStorage {
  SelectStorage<kClusterSize> select;
  BinStorage bins;
  uint32_t warp_sums[2][kThreads / 32];
  uint64_t loaded[num_parts(kClusterSize)];
};

}  // namespace dsa_ops::topk_sm90::staged
