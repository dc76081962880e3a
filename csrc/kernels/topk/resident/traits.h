// Compile-time contract of the resident selection: sample, shared memory.
#pragma once
#include <cstdint>

#include "kernels/topk/storage.h"

namespace dsa_ops::topk_sm90::resident {

// Of a row that several blocks share; each reads the same ones.
inline constexpr int kSamples = 1024;

template <int kClusterSize, int kThreads, int kKeys>
struct alignas(128) SharedStorage {
  SelectStorage<kClusterSize> select;
  BinStorage bins;
  uint32_t warp_values[2][kThreads / 32];
  // By warp: the winners' places in it.
  uint16_t winners[kThreads / 32][32 * kKeys];
};

}  // namespace dsa_ops::topk_sm90::resident
