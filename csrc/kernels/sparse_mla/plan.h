// How a launch is cut: pure functions of sizes and device, the same on every host.
#pragma once
#include <cstddef>
#include <cstdint>

namespace dsa_ops::sparse_mla {

// Of the kernel over bf16 values.
inline constexpr int kTileHeads = 64;
inline constexpr int kBlockTokens = 64;

struct SplitPlan {
  int tile_heads;        // heads of a thread block
  int head_tiles;        // of them per row
  int num_splits;        // parts of an index list, each its own thread block
  int blocks_per_split;  // of 64 tokens
  bool through_scratch;  // FP8 cache: parts are joined by a second kernel, not within a cluster
};

// A row of so many heads, all in one tile, may have three splits in a cluster.
inline constexpr int kThreeSplitHeads = 16;

// FP8 cache: tiles of 8, 16, 32 or 64 heads; 1, 2, 4, 8 or 16 splits, which form a cluster and join
// their parts themselves (with 64 heads only 2, with 16 also 3), or up to 16 that go through
// scratch. Of what fits the device at once, or is not split, the pair that should take the least
// time.
SplitPlan plan_fp8(int64_t num_rows, int32_t num_heads, int64_t top_k, int32_t num_sms);

// Parts of a launch over an FP8 cache that go through scratch: byte sizes, each a multiple of 256.
struct PartBytes {
  size_t values;
  size_t sums;
  size_t total() const { return values + sums; }
};
PartBytes fp8_part_bytes(SplitPlan const& plan, int64_t num_rows);

// Whether copies that fill all stages of all thread blocks would hold so much of the L2 that they
// displace written lines, which costs memory the time to write them.
bool fp8_limits_copies(SplitPlan const& plan, int64_t num_rows);

// How far above a maximum its reference is put, so that it need not follow soon, or below it. What
// is less than 2^(headroom - 25) of a list's first maximum is lost in f16: in lists of up to 2^22
// keys at most 2^-11 of it all keys together.
int fp8_headroom_log2(SplitPlan const& plan, int64_t top_k);

// bf16 cache: tiles of 64 heads, splits of whole pairs of blocks. No split once rows * head_tiles
// fills the device; below that as many as fill it once.
SplitPlan plan_bf16(int64_t num_rows, int32_t num_heads, int64_t top_k, int32_t num_sms);

// Partial outputs and log-sum-exps of a split launch over a bf16 cache: byte sizes, each a multiple
// of 256.
struct PartialBytes {
  size_t output;
  size_t lse;
  size_t total() const { return output + lse; }
};
PartialBytes partial_bytes(SplitPlan const& plan, int64_t num_rows, int32_t num_heads);

// Rows of up to 32 heads may attend in packs: pack_rows neighbours in one tile of 64 (row, head)
// pairs, over the union of their index lists.
inline constexpr int kMaxPackRows = 8;  // a key of a union has a byte for the rows that select it

struct PackPlan {
  int pack_rows;       // 1: no packs
  int64_t chunk_rows;  // of one launch, so that its unions fit a bounded scratch
  int32_t capacity;    // keys of a union, a multiple of 64
  // Of a chunk, multiples of 64: one of its two tile lists, and its unions.
  size_t tiles_bytes, keys_bytes, members_bytes;
  static constexpr size_t kFlagBytes = 256;
  size_t total() const {
    return pack_rows > 1 ? kFlagBytes + 2 * tiles_bytes + keys_bytes + members_bytes : 0;
  }
};
PackPlan plan_packs(int64_t num_rows, int32_t num_heads, int64_t top_k, int32_t num_sms);

// The largest share of its rows' entries that a union may have for the rows to attend as a pack.
// A pack's tile is as long as its union, so with few rows it counts how many tiles follow each
// other on a multiprocessor.
float max_union_share(int64_t num_rows, int32_t pack_rows, int32_t num_sms);

}  // namespace dsa_ops::sparse_mla
