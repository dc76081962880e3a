// Compile-time contract of the binned selection: block shape, bins, shared memory.
#pragma once
#include <cstdint>

#include "kernels/topk/storage.h"

namespace dsa_ops::topk_sm90::binned {

inline constexpr int kThreads = 512;
inline constexpr int kWarps = kThreads / 32;
inline constexpr int kThreadKeys = 16;
inline constexpr int kValueBins = 2048;
inline constexpr int kListedKeys = 32;

// Where a row's winners go.
struct alignas(16) Output {
  int32_t* indices;
  int32_t offset;
  bool to_slots;
};

struct alignas(128) SharedStorage {
  Output output;
  uint32_t bins[kValueBins];
  uint64_t listed[kListedKeys];  // keys above the places that they have in the block, inverted
  Place place;
  uint32_t num_listed;
  uint32_t warp_values[2][kWarps];
  uint32_t lowest[kWarps];
  uint32_t highest[kWarps];
  float samples[32];                           // sorted
  uint16_t winners[kWarps][32 * kThreadKeys];  // by warp: their places in it
  SelectStorage<1> select;
};

// Buckets keep what they count, as long as it fits.
inline constexpr int kSamples = 128;
inline constexpr int kBuckets = 256;
inline constexpr int kBucketKeys = 32;
inline constexpr int kBucketStride = kBucketKeys + 1;  // other banks for other buckets

struct alignas(128) BucketStorage {
  SharedStorage select;
  float buckets[kBuckets][kBucketStride];
  uint32_t counts[kBuckets];
  uint32_t no_counts[32];
  uint32_t sample_keys[kSamples];
  float sorted[kSamples];
  uint32_t above[kWarps];  // logits above all buckets
};

}  // namespace dsa_ops::topk_sm90::binned
