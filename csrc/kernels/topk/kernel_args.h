// From a call's parameters to what its kernels get.
#pragma once
#include <algorithm>
#include <cstdint>
#include <limits>

#include "dsa_ops/topk.h"
#include "kernels/topk/traits.h"

namespace dsa_ops::topk_sm90 {

inline KernelArgs kernel_args(TopkParams const& params, indexer::RowLengths const& lengths,
                              int32_t capacity, int32_t window_words) {
  KernelArgs args{};
  args.lengths = lengths;
  args.row_offsets = params.row_offsets;
  args.logits = params.logits;
  args.logits_row_stride = params.logits_row_stride;
  args.row_starts = lengths.context_lens == nullptr ? params.row_starts : nullptr;
  args.row_ends = params.row_ends;
  args.indices = params.indices;
  args.indices_row_stride = params.indices_row_stride;
  args.to_slots = params.to_slots;
  args.block_table = params.block_table;
  args.block_table_stride = params.block_table_stride;
  args.num_requests = params.num_requests;
  args.pages_per_request = params.pages_per_request;
  args.row_to_request = params.row_to_request;
  args.rows_per_request = static_cast<int32_t>(
      params.num_requests > 0 ? std::max<int64_t>(params.num_rows / params.num_requests, 1) : 1);
  // Row ends are 32-bit: no row reaches further.
  args.num_columns = static_cast<int32_t>(
      std::min<int64_t>(params.num_columns, std::numeric_limits<int32_t>::max()));
  args.top_k = params.top_k;
  args.capacity = capacity;
  args.window_words = window_words;
  return args;
}

}  // namespace dsa_ops::topk_sm90
