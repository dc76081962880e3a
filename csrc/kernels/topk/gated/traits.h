// Compile-time contract of the gated selection: tiles, sample, shared memory.
#pragma once
#include <cstdint>

#include "kernels/topk/traits.h"

namespace dsa_ops::topk_sm90::gated {

// A block streams tiles of 4,096 logits, 8 per thread at a distance of 512, and loads one ahead.
inline constexpr int kLogitsPerThread = 8;
inline constexpr int kTileLogits = kThreads * kLogitsPerThread;

// A sample is 1,024 chunks of 1, 2, 4 or 8 logits: at least one logit in 32 of a row of up to
// 262,144.
inline constexpr int kSampleChunks = 1024;
inline constexpr int kMaxChunkLog2 = 3;
inline constexpr int kSampledPerLogitLog2 = 5;
__host__ __device__ constexpr int sample_chunk_log2(int32_t length) {
  int log2 = 0;
  while (log2 < kMaxChunkLog2 && (int64_t{kSampleChunks} << (kSampledPerLogitLog2 + log2)) < length)
    ++log2;
  return log2;
}

// Of a row of values, the bin [low, low + 2^shift) that holds the rank-th best of them.
struct Bin {
  uint32_t low;
  int shift;
  uint32_t rank;    // of the value sought, within the bin
  uint32_t inside;  // values in the bin
};

// The k-th best candidate: winners have a better key, or this one and at most this position.
struct Threshold {
  uint32_t key;
  uint32_t position;
};

inline constexpr int kMaxFinalists = 32;

// Followed by the histogram (later the winners' positions), the candidates' keys and positions, and
// the sample (later the winners' bitmap).
struct alignas(128) SharedStorage {
  uint32_t coarse[kCoarseBins];  // sums of 32 bins
  uint32_t warp_totals[2][kWarps];
  uint32_t warp_best[kWarps];
  uint32_t warp_worst[kWarps];
  uint32_t finalist_keys[kMaxFinalists];
  uint32_t finalist_positions[kMaxFinalists];
  Bin bin;
  Threshold threshold;
  uint32_t num_finalists;
  uint32_t num_candidates;
};

}  // namespace dsa_ops::topk_sm90::gated
