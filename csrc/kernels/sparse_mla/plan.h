// How a launch is cut: pure functions of sizes and device, the same on every host.
#pragma once
#include <cstddef>
#include <cstdint>

namespace dsa_ops::sparse_mla {

struct SplitPlan {
  int tile_heads;        // heads of a thread block
  int head_tiles;        // of them per row
  int num_splits;        // parts of an index list, each its own thread block
  int blocks_per_split;  // of 64 tokens
};

// FP8 cache: tiles of 8, 16, 32 or 64 heads; 1, 2, 3, 4, 8 or 16 splits, which form a cluster and
// join their parts themselves. Of what fits the device at once, or is not split, the pair that
// should take the least time.
SplitPlan plan_fp8(int64_t num_rows, int32_t num_heads, int64_t top_k, int32_t num_sms);

// bf16 cache: tiles of 64 heads. No split once rows * head_tiles fills the device; below that as
// many as fill it once.
SplitPlan plan_bf16(int64_t num_rows, int32_t num_heads, int64_t top_k, int32_t num_sms);

// Partial outputs and log-sum-exps of a split launch over a bf16 cache: byte sizes, each a multiple
// of 256.
struct PartialBytes {
  size_t output;
  size_t lse;
  size_t total() const { return output + lse; }
};
PartialBytes partial_bytes(SplitPlan const& plan, int64_t num_rows, int32_t num_heads);

}  // namespace dsa_ops::sparse_mla
