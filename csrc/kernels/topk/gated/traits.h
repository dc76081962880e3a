// Compile-time contract of the gated selection: block shape, sample, candidates, shared memory.
#pragma once
#include <cstdint>

#include "dsa_ops/topk.h"
#include "kernels/topk/storage.h"

namespace dsa_ops::topk_sm90::gated {

inline constexpr int kThreads = 512;
// Two blocks share a multiprocessor, where there may be as many.
constexpr int min_blocks(int cluster_size) { return cluster_size <= 8 ? 2 : 1; }
// Logits that a thread looks at before it takes places for those that pass.
inline constexpr int kBatchLogits = 8;
// A block's candidates at most; their keys are held in registers.
constexpr int max_candidates(int cluster_size) { return cluster_size == 1 ? 7168 : 6144; }
// A sample is a quad of neighbouring logits per thread, and some threads' quads are neighbours, in
// a line of memory: each line costs a trip, and the place in the L2 of a line that may have to be
// written first. Microseconds with 1, 2, 4, 8 quads a run: 64 x 32K 13.7, 13.1, 12.9, 12.8; 128 x
// 64K 23.9, 22.8, 22.9, 22.8; 256 x 128K 64.0, 63.1, 62.4, 61.9.
inline constexpr int kQuadLogits = 4;
inline constexpr int kRunQuads = 4;

// Packets of a thread in flight. A block that has a multiprocessor alone takes more: 1 x 1M 17.8
// microseconds with 8 packets, 19.0 with 4.
constexpr int packets_in_flight(LogitsType type, int cluster_size) {
  return (type == LogitsType::kFloat32 ? 4 : 3) * (min_blocks(cluster_size) == 1 ? 2 : 1);
}

// Samples are read before the row's end is known, all over the width of the logits. Where blocks of
// many rows follow each other, others hide that wait, and samples of the row alone let fewer logits
// pass: 4096 x 64K 405 microseconds without, 408 with, with ties 428 and 437. 1 x 1M 16.5 and 16.9.
constexpr bool samples_ahead(int cluster_size) { return cluster_size == 2 || cluster_size == 8; }
// Packets of a thread that do not wait for the samples. Microseconds with 0, 1, 2: 16 x 128K 12.7,
// 12.5, 12.4, 8 x 32K 9.0, 9.0, 9.4; with two blocks a row 64 x 128K 23.0, 22.8, 24.6, 64 x 32K,
// ties 13.6, 13.9, 14.4.
constexpr int early_packets(int cluster_size) { return samples_ahead(cluster_size) ? 1 : 0; }

struct Gate {
  uint32_t key;      // this and better pass
  uint32_t high;     // a key that few are better than
  bool above_tie;    // the gate is just above a key that many share
  bool likely_tied;  // which the k-th best seems to be
  bool maybe_tied;   // or may be
};

// Followed by the candidates, the winners' bitmap and the winners' positions.
template <int kClusterSize, int kThreads>
struct alignas(128) SharedStorage {
  SelectStorage<kClusterSize> select;
  BinStorage bins;
  uint32_t warp_sums[2][1][kThreads / 32];
  Gate gate;
  uint32_t num_candidates;
  int32_t slice_begin;  // in the row
  int32_t slice_count;
  uint32_t first_tie;  // from this candidate on they are the tie's, in order
  bool ties_noted;
  uint8_t tie_bits[kThreads];  // of the tie in the slice's first packets, one of each thread
  // By rank: candidates and noted ties of the row's blocks.
  uint2 tallies[kClusterSize > 1 ? kClusterSize : 0];
  uint64_t tally_barrier;
};

}  // namespace dsa_ops::topk_sm90::gated
