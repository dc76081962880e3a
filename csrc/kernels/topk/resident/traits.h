// Compile-time contract of the resident selection: cluster, sample, shared memory.
#pragma once
#include <cstdint>

#include "kernels/topk/candidates.h"
#include "kernels/topk/storage.h"

namespace dsa_ops::topk_sm90::resident {

// Blocks that share a row, threads of a block, logits that a thread holds.
template <int kClusterBlocks, int kBlockThreads, int kHeldKeys>
struct Form {
  static constexpr int kClusterSize = kClusterBlocks;
  static constexpr int kThreads = kBlockThreads;
  static constexpr int kThreadKeys = kHeldKeys;
  // Twice a row's best, for a top_k of 2,048, as the listed keys are about as many.
  static constexpr int kCodes = kClusterSize >= 8 ? 512 : kClusterSize > 2 ? 1024 : 4096;
};
using FewRows = Form<16, 512, 16>;
using SomeRows = Form<6, 1024, 24>;
using ShortRows = Form<2, 1024, 16>;

// Of a row; each of its blocks reads the same ones.
inline constexpr int kSamples = 1024;
#ifndef WC
#define WC 256
#endif
inline constexpr int kWarpCandidates = WC;

template <class F>
struct alignas(128) SharedStorage {
  static constexpr int kWarps = F::kThreads / 32;

  SelectStorage<F::kClusterSize, F::kCodes> select;
  BinStorage bins;
  uint32_t warp_values[2][kWarps];
  union {  // by warp
    Candidate lists[kWarps][kWarpCandidates];
    uint16_t winners[kWarps][32 * F::kThreadKeys];  // their places in it
  };
};

}  // namespace dsa_ops::topk_sm90::resident
