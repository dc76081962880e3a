// Compile-time contract of the resident selection: sample, shared memory.
#pragma once
#include <cstdint>

#include "kernels/topk/storage.h"

namespace dsa_ops::topk_sm90::resident {

// Of a row that several blocks share; each reads the same ones.
inline constexpr int kSamples = 1024;

// Followed by the winners' positions. kWords: two tiles' counts each, see compact.cuh.
template <int kClusterSize, int kThreads, int kWords>
struct alignas(128) SharedStorage {
  SelectStorage<kClusterSize> select;
  BinStorage bins;
  uint32_t warp_sums[2][kWords][kThreads / 32];
  int32_t first_position;  // of the first packet
};

}  // namespace dsa_ops::topk_sm90::resident
