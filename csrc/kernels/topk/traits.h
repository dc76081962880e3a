// What the top-k kernels share: the arguments that a launch carries.
#pragma once
#include <cstdint>

#include "dsa_ops/topk.h"
#include "kernels/indexer/row_length.h"

namespace dsa_ops::topk_sm90 {

inline constexpr int kPageTokens = 64;
inline constexpr int kMaxDynamicBytes = 232448;  // of shared memory

struct KernelArgs {
  void const* logits;
  int64_t logits_row_stride;
  int32_t const* row_starts;
  int32_t const* row_ends;
  int32_t* indices;
  int64_t indices_row_stride;
  bool to_slots;
  int32_t const* block_table;
  int64_t block_table_stride;
  int64_t num_requests;
  int64_t pages_per_request;
  int32_t const* row_to_request;
  int32_t rows_per_request;
  int32_t const* row_offsets;
  indexer::RowLengths lengths;  // in place of row_starts and row_ends, if it has context_lens
  int32_t num_columns;
  int32_t top_k;
  int32_t capacity;      // see TopkPlan
  int32_t window_words;  // see TopkPlan
};

}  // namespace dsa_ops::topk_sm90
