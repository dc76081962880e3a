// Compile-time contract of the resident selection: sample, shared memory.
#pragma once
#include <cstdint>

#include "kernels/topk/cluster_select.cuh"

namespace dsa_ops::topk_sm90::resident {

// The guess comes from the best samples of 32 groups of up to 64.
inline constexpr int kGroups = 32;
inline constexpr int kMaxGroupSamples = 64;

// How many of the groups' bests are probably worse than the row's k-th best, at least and at most.
struct GroupRanks {
  int low;
  int high;
};

template <int kClusterSize, int kThreads>
struct alignas(128) SharedStorage {
  SelectStorage<kClusterSize> select;
  alignas(16) uint32_t group_best[kGroups];
  uint32_t warp_sums[2][kThreads / 32];
  uint32_t low;
  uint32_t high;
};

}  // namespace dsa_ops::topk_sm90::resident
