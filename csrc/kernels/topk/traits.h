// What both top-k kernels share: block shape, histogram size and the arguments a launch carries.
#pragma once
#include <cstdint>

#include "dsa_ops/topk.h"

namespace dsa_ops::topk_sm90 {

inline constexpr int kThreads = 512;
inline constexpr int kWarps = kThreads / 32;
// Two blocks share a multiprocessor's registers, if their shared memory fits too.
inline constexpr int kMinBlocks = 2;
inline constexpr int kMaxRegisters = 65536 / (kThreads * kMinBlocks) / 8 * 8;

inline constexpr int kBinsLog2 = 11;
inline constexpr int kBins = 1 << kBinsLog2;
inline constexpr int kCoarseBins = kBins / 32;

inline constexpr int kPageTokens = 64;
inline constexpr int kMaxSharedBytes = 232448;

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
  int32_t num_columns;
  int32_t top_k;
  int32_t capacity;      // see TopkPlan
  int32_t window_words;  // see TopkPlan
};

}  // namespace dsa_ops::topk_sm90
