// Where the ragged kernel finds the keys of the sample: every kSampleStride-th.
#pragma once
#include <cstdint>

#include "kernels/indexer/ragged_keys.cuh"
#include "kernels/topk/fused/args.h"

namespace dsa_ops::topk_sm90::fused {

// Samples of keys before `key`, which are also the place of the first sample from there on.
__device__ __forceinline__ int32_t samples_before(int32_t key) {
  return (key + kSampleStride - 1) / kSampleStride;
}

struct SampledKeys : indexer::FlatKeys {
  using Args = SampleArgs;

  // The samples of a row.
  static __device__ __forceinline__ indexer::RowRange range(Args const& args, int32_t row) {
    indexer::RowRange const range = indexer::row_range(args, args.row_keys, row);
    return indexer::RowRange{samples_before(range.begin), samples_before(range.end)};
  }

  static constexpr int32_t kAheadPerStage = kSampleStride * indexer::kStageKeys;
  static __device__ __forceinline__ float const* ahead_at(Args const& args, int32_t n) {
    return args.k_scale + static_cast<int64_t>(n) * kSampleStride;
  }
};

}  // namespace dsa_ops::topk_sm90::fused
