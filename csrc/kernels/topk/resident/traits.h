// Compile-time contract of the resident selection: cluster, sample, shared memory.
#pragma once
#include <cstdint>

#include "kernels/topk/candidates.h"
#include "kernels/topk/storage.h"

namespace dsa_ops::topk_sm90::resident {

inline constexpr int kClusterSize = 16;
inline constexpr int kThreads = 512;
inline constexpr int kThreadKeys = 16;
// Of a row; each of its blocks reads the same ones.
inline constexpr int kSamples = 1024;

struct alignas(128) SharedStorage {
  SelectStorage<kClusterSize> select;
  BinStorage bins;
  uint32_t warp_values[2][kThreads / 32];
  union {  // by warp
    Candidate lists[kThreads / 32][32 * kThreadKeys];
    uint16_t winners[kThreads / 32][32 * kThreadKeys];  // their places in it
  };
};

}  // namespace dsa_ops::topk_sm90::resident
