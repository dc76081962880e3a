// What the top-k kernels share: the arguments that a launch carries.
#pragma once
#include <cstdint>

#include "dsa_ops/topk.h"
#include "kernels/indexer/row_length.h"

namespace dsa_ops::topk_sm90 {

inline constexpr int kPageTokens = 64;
inline constexpr int kMaxDynamicBytes = 232448;  // of shared memory

// What a row's loads begin with comes first, in one line of the constant cache.
struct KernelArgs {
  int32_t num_columns;
  int32_t top_k;
  void const* logits;
  int64_t logits_row_stride;
  int32_t const* row_starts;
  int32_t const* row_ends;
  indexer::RowLengths lengths;  // in place of row_starts and row_ends, if it has context_lens
  int32_t* indices;
  int64_t indices_row_stride;
  int32_t const* row_offsets;
  bool to_slots;
  int32_t const* block_table;
  int64_t block_table_stride;
  int64_t num_requests;
  int64_t pages_per_request;
  int32_t const* row_to_request;
  int32_t rows_per_request;
  int32_t capacity;      // see TopkPlan
  int32_t window_words;  // see TopkPlan
};

}  // namespace dsa_ops::topk_sm90
