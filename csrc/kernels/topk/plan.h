// How a top-k launch is shaped. Pure host functions of the sizes: row lengths are device data, so a
// plan serves every row from empty to num_columns long.
#pragma once
#include <cstdint>

namespace dsa_ops::topk_sm90 {

struct TopkPlan {
  int32_t cluster_size;  // blocks that share a row: 1, 2, 4, 8 or 16
  int32_t capacity;      // candidates that a row's first block holds
  int32_t window_words;  // of the bitmap that orders winners, a multiple of 32
  int32_t shared_bytes;  // dynamic shared memory of a block
  int64_t num_blocks;
};

TopkPlan plan_topk(int64_t num_rows, int64_t num_columns, int32_t top_k, int32_t num_sms) noexcept;

}  // namespace dsa_ops::topk_sm90
