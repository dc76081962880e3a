// How a launch is cut: pure functions of sizes and device, the same on every host.
#pragma once
#include <cstddef>
#include <cstdint>

namespace dsa_ops::sparse_mla {

struct SplitPlan {
  int head_tiles;        // blocks of 64 heads per row
  int num_splits;        // parts of an index list, each its own thread block
  int blocks_per_split;  // of 64 tokens
};

// No split once rows * head_tiles fills the device; below that as many as fill it once.
SplitPlan plan_splits(int64_t num_rows, int32_t num_heads, int64_t top_k, int32_t num_sms);

// Partial outputs and log-sum-exps of a split launch: byte sizes, each a multiple of 256.
struct PartialBytes {
  size_t output;
  size_t lse;
  size_t total() const { return output + lse; }
};
PartialBytes partial_bytes(SplitPlan const& plan, int64_t num_rows, int32_t num_heads);

// Whether rows of few heads are packed, to attend together over the union of their index lists.
struct PackPlan {
  int rows;                // of a pack; 1: no row is packed
  int64_t capacity;        // entries of a union
  int64_t rows_per_chunk;  // of a launch, so that its unions fit the scratch
  size_t header_bytes;     // a multiple of 256
  size_t entry_bytes;
  size_t total() const { return header_bytes + entry_bytes; }
};
PackPlan plan_packs(int64_t num_rows, int32_t num_heads, int64_t top_k, int32_t num_sms);

// The largest part of the rows' entries that a union may have for its rows to be packed.
float max_union_share(int64_t num_rows, int32_t pack_rows, int32_t num_sms);

}  // namespace dsa_ops::sparse_mla
