// Compile-time contract of the staged selection: block shape, sample, shared memory.
#pragma once
#include <cstdint>

#include "kernels/topk/storage.h"

namespace dsa_ops::topk_sm90::staged {

inline constexpr int kThreads = 256;
inline constexpr int kWarps = kThreads / 32;
// Five rows of 8,192 float32 logits fit a multiprocessor.
inline constexpr int kMinBlocks = 5;
// Which keys of a thread win is one word.
inline constexpr int kThreadLogits = 32;
// A thread's memory comes in pairs of packets.
inline constexpr int kPairBytes = 2 * 16 * kThreads;
inline constexpr int kSamples = 512;

// Followed by the row, whose place the winners' positions take.
struct alignas(128) SharedStorage {
  SelectStorage<1> select;
  BinStorage bins;
  uint32_t warp_sums[2][kWarps];
  uint64_t loaded;
};

}  // namespace dsa_ops::topk_sm90::staged
