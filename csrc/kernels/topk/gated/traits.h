// Compile-time contract of the gated selection: block shape, sample, candidates, shared memory.
#pragma once
#include <cstdint>

#include "kernels/topk/storage.h"

namespace dsa_ops::topk_sm90::gated {

inline constexpr int kThreads = 512;
// Two blocks share a multiprocessor, where there may be as many.
constexpr int min_blocks(int cluster_size) { return cluster_size <= 2 ? 2 : 1; }
// Logits that a thread looks at before it takes places for those that pass.
inline constexpr int kBatchLogits = 8;
// A block's candidates at most; their keys are held in registers.
constexpr int max_candidates(int cluster_size) { return cluster_size == 1 ? 7168 : 6144; }
// A sample is a quad of neighbouring logits per thread.
inline constexpr int kQuadLogits = 4;

// What a block has the L2 load ahead while the gate is found: a few rows alone cannot keep the
// memory busy then. Microseconds: 1 x 1M 18.9 against 20.5, 16 x 128K 16.3 against 16.8, 64 x 128K
// 25.7 against 26.2; but 128 x 64K 26.8 against 24.9, hence the least size.
constexpr int prefetch_bytes(int cluster_size) { return cluster_size > 8 ? 256 << 10 : 96 << 10; }
inline constexpr int kMinPrefetchedBytes = 384 << 10;  // of the row, with up to 8 blocks

struct Gate {
  uint32_t key;    // this and better pass
  uint32_t high;   // a key that few are better than
  bool above_tie;  // the gate is just above a key that many share
};

// Followed by the candidates, the winners' bitmap and the winners' positions.
template <int kClusterSize, int kThreads>
struct alignas(128) SharedStorage {
  SelectStorage<kClusterSize> select;
  BinStorage bins;
  uint32_t warp_sums[2][1][kThreads / 32];
  Gate gate;
  uint32_t num_candidates;
};

}  // namespace dsa_ops::topk_sm90::gated
