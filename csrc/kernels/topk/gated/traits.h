// Compile-time contract of the gated selection: block shape, sample, candidates, shared memory.
#pragma once
#include <cstdint>

#include "dsa_ops/topk.h"
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

// Packets of a thread in flight. Few blocks need more each to keep the memory busy: 16 x 1M takes
// 42 microseconds with 8 packets and 47 with 4.
constexpr int packets_in_flight(LogitsType type, int cluster_size) {
  return (type == LogitsType::kFloat32 ? 4 : 3) * (cluster_size > 2 ? 2 : 1);
}

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
