// How a top-k launch is shaped. Pure host functions of the sizes: row lengths are device data, so a
// plan serves every row from empty to num_columns long.
#pragma once
#include <cstdint>

namespace dsa_ops::topk_sm90 {

enum class Selector {
  kBinned,    // all keys of a short row in registers, counted once
  kResident,  // all keys of a row in the registers of a cluster
  kStaged,    // all keys of a row in shared memory
  kGated,     // the logits that pass a gate in shared memory
};

struct TopkPlan {
  Selector selector;
  int32_t cluster_size;  // blocks that share a row
  int32_t block_threads;
  int32_t thread_keys;   // that a thread holds at most (not gated)
  int32_t capacity;      // candidates of a block (gated)
  int32_t window_words;  // of the bitmap that orders winners (gated), 32 positions each
  int32_t shared_bytes;  // dynamic shared memory of a block
  int64_t num_blocks;
};

// Where the ranges of rows start.
enum class RowStarts {
  kAligned,      // at 16-byte addresses
  kAlignedRows,  // anywhere in rows that do
  kAnywhere,
};

// The selectors agree on every row: all are exact, so the choice is one of time alone.
TopkPlan plan_topk(int64_t num_rows, int64_t num_columns, int32_t top_k, RowStarts starts,
                   int32_t num_sms) noexcept;

// One of portable clusters, for a context that has no larger ones.
TopkPlan plan_portable(int64_t num_rows, int64_t num_columns, int32_t top_k) noexcept;

}  // namespace dsa_ops::topk_sm90
