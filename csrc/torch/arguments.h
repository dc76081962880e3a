// Checks of arguments that the indexer, top-k and attention bindings share; mirrors
// dsa_ops/ops/_arguments.py.
#pragma once
#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>

#include "dsa_ops/caches.h"
#include "dsa_ops/sparse_mla.h"
#include "dsa_ops/topk.h"
#include "torch/cache_arguments.h"
#include "torch/common.h"

namespace dsa_ops::binding {

// A tensor of one dtype and shape with any strides but the last.
inline void check_plain(Checker const& checker, Tensor const& tensor, char const* argument,
                        ScalarType dtype, std::initializer_list<int64_t> sizes, char const* text) {
  checker.dtype(tensor, argument, {dtype});
  checker.shape(tensor, argument, sizes, text);
  checker.last_dim_contiguous(tensor, argument);
}

// The same for a tensor that the kernels read or write in 16-byte pieces.
inline void check_aligned(Checker const& checker, Tensor const& tensor, char const* argument,
                          ScalarType dtype, std::initializer_list<int64_t> sizes,
                          char const* text) {
  check_plain(checker, tensor, argument, dtype, sizes, text);
  checker.aligned_16(tensor, argument);
}

inline void check_index_heads(Checker const& checker, int64_t num_heads) {
  if (num_heads == 8 || num_heads == 16 || num_heads == 32 || num_heads == 64) return;
  checker.fail("q", "of 8 or 16 or 32 or 64 heads", std::to_string(num_heads));
}

inline void check_attention_heads(Checker const& checker, int64_t num_heads) {
  if (num_heads >= 1 && num_heads <= kMaxAttentionHeads) return;
  checker.fail("q", "of 1 to " + std::to_string(kMaxAttentionHeads) + " heads",
               std::to_string(num_heads));
}

// What the rows of ragged queries have beside the keys.
inline void check_scored_rows(Checker const& checker, Tensor const& q, Tensor const& weights,
                              Tensor const& row_starts, Tensor const& row_ends) {
  int64_t const rows = q.size(0);
  check_plain(checker, weights, "weights", ScalarType::Float, {rows, q.size(1)}, "[T, Hi]");
  check_plain(checker, row_starts, "row_starts", ScalarType::Int, {rows}, "[T]");
  check_plain(checker, row_ends, "row_ends", ScalarType::Int, {rows}, "[T]");
}

inline void check_ragged_scoring(Checker const& checker, Tensor const& q, Tensor const& k,
                                 Tensor const& k_scale, Tensor const& weights,
                                 Tensor const& row_starts, Tensor const& row_ends) {
  check_aligned(checker, q, "q", ScalarType::Float8_e4m3fn, {-1, -1, kIndexHeadDim},
                "[T, Hi, 128]");
  check_aligned(checker, k, "k", ScalarType::Float8_e4m3fn, {-1, kIndexHeadDim}, "[N, 128]");
  check_plain(checker, k_scale, "k_scale", ScalarType::Float, {k.size(0)}, "[N]");
  check_scored_rows(checker, q, weights, row_starts, row_ends);
}

inline void check_cached_scoring(Checker const& checker, Tensor const& q, Tensor const& index_cache,
                                 Tensor const& page_ids, Tensor const& weights,
                                 Tensor const& row_starts, Tensor const& row_ends) {
  check_aligned(checker, q, "q", ScalarType::Float8_e4m3fn, {-1, -1, kIndexHeadDim},
                "[T, Hi, 128]");
  check_index_cache(checker, index_cache, "index_cache");
  check_plain(checker, page_ids, "page_ids", ScalarType::Int, {-1}, "[P]");
  check_scored_rows(checker, q, weights, row_starts, row_ends);
}

inline void check_paged_scoring(Checker const& checker, Tensor const& q, Tensor const& index_cache,
                                Tensor const& weights, Tensor const& context_lens,
                                Tensor const& block_table) {
  check_aligned(checker, q, "q", ScalarType::Float8_e4m3fn, {-1, -1, -1, kIndexHeadDim},
                "[B, next_n, Hi, 128]");
  int64_t const batch = q.size(0);
  int64_t const next_n = q.size(1);
  check_index_cache(checker, index_cache, "index_cache");
  check_plain(checker, weights, "weights", ScalarType::Float, {batch * next_n, q.size(2)},
              "[B * next_n, Hi]");
  checker.dtype(context_lens, "context_lens", {ScalarType::Int});
  if (context_lens.dim() == 2) {
    checker.shape(context_lens, "context_lens", {batch, next_n}, "[B] or [B, next_n]");
  } else {
    checker.shape(context_lens, "context_lens", {batch}, "[B] or [B, next_n]");
  }
  checker.last_dim_contiguous(context_lens, "context_lens");
  check_plain(checker, block_table, "block_table", ScalarType::Int, {batch, -1}, "[B, P]");
}

inline void check_paged_counts(Checker const& checker, Tensor const& q) {
  if (q.size(1) < 1) {
    checker.fail("q", "of 1 or more tokens per request", std::to_string(q.size(1)));
  }
  check_index_heads(checker, q.size(2));
}

inline void check_num_sms(Checker const& checker, int64_t num_sms) {
  if (num_sms < 0) checker.fail("num_sms", "0 or more", std::to_string(num_sms));
}

inline void check_translation(Checker const& checker, int64_t num_rows,
                              std::optional<Tensor> const& block_table,
                              std::optional<Tensor> const& row_to_request) {
  if (block_table) {
    check_plain(checker, *block_table, "block_table", ScalarType::Int, {-1, -1}, "[B, P]");
  }
  if (row_to_request) {
    check_plain(checker, *row_to_request, "row_to_request", ScalarType::Int, {num_rows}, "[T]");
  }
}

inline void check_rows_per_request(Checker const& checker, int64_t num_rows,
                                   std::optional<Tensor> const& block_table,
                                   std::optional<Tensor> const& row_to_request) {
  if (!block_table) {
    if (row_to_request) checker.fail("row_to_request", "None without block_table", "a tensor");
    return;
  }
  if (row_to_request) return;
  int64_t const num_requests = block_table->size(0);
  bool const divides = num_requests == 0 ? num_rows == 0 : num_rows % num_requests == 0;
  if (!divides) {
    checker.fail("block_table", "of a row count B that divides T",
                 "B = " + std::to_string(num_requests) + " for T = " + std::to_string(num_rows));
  }
}

inline void check_indices(Checker const& checker, Tensor const& indices, int64_t num_rows,
                          char const* text) {
  check_plain(checker, indices, "indices", ScalarType::Int, {num_rows, -1}, text);
}

inline void check_top_k(Checker const& checker, int64_t top_k) {
  if (top_k >= 1 && top_k <= kMaxTopk) return;
  checker.fail("top_k", "from 1 to " + std::to_string(kMaxTopk), std::to_string(top_k));
}

// The packed stride stands in for one that means nothing, so that what the kernels see is always a
// multiple of 16 bytes where it has to be.
inline int64_t aligned_stride(Tensor const& tensor, int64_t dim) {
  int64_t packed = 1;
  for (int64_t i = dim + 1; i < tensor.dim(); ++i) packed *= tensor.size(i);
  return stride_of(tensor, dim, packed);
}

// Scratch of the caching allocator, which aligns to 512 bytes, on the device of `like`.
inline Tensor new_workspace(Tensor const& like, size_t bytes) {
  return torch::stable::new_empty(like, {static_cast<int64_t>(bytes)}, ScalarType::Byte);
}

inline IndexerLogitsParams ragged_scoring_params(Tensor const& q, Tensor const& k,
                                                 Tensor const& k_scale, Tensor const& weights,
                                                 Tensor const& row_starts, Tensor const& row_ends) {
  IndexerLogitsParams params{};
  params.q = q.const_data_ptr();
  params.q_row_stride = aligned_stride(q, 0);
  params.q_head_stride = aligned_stride(q, 1);
  params.k = k.const_data_ptr();
  params.k_stride = aligned_stride(k, 0);
  params.k_scale = data<float>(k_scale);
  params.weights = data<float>(weights);
  params.weights_row_stride = aligned_stride(weights, 0);
  params.row_starts = data<int32_t>(row_starts);
  params.row_ends = data<int32_t>(row_ends);
  params.num_rows = q.size(0);
  params.num_keys = k.size(0);
  params.num_heads = static_cast<int32_t>(q.size(1));
  return params;
}

inline CachedIndexerLogitsParams cached_scoring_params(Tensor const& q, Tensor const& index_cache,
                                                       Tensor const& page_ids,
                                                       Tensor const& weights,
                                                       Tensor const& row_starts,
                                                       Tensor const& row_ends) {
  CachedIndexerLogitsParams params{};
  params.q = q.const_data_ptr();
  params.q_row_stride = aligned_stride(q, 0);
  params.q_head_stride = aligned_stride(q, 1);
  params.index_cache = index_cache.const_data_ptr();
  params.page_stride_bytes = aligned_stride(index_cache, 0);
  params.num_pages = index_cache.size(0);
  params.page_ids = data<int32_t>(page_ids);
  params.num_page_ids = page_ids.size(0);
  params.weights = data<float>(weights);
  params.weights_row_stride = aligned_stride(weights, 0);
  params.row_starts = data<int32_t>(row_starts);
  params.row_ends = data<int32_t>(row_ends);
  params.num_rows = q.size(0);
  params.num_heads = static_cast<int32_t>(q.size(1));
  return params;
}

// More multiprocessors than any device has mean all of them.
inline int32_t sm_limit(int64_t num_sms) {
  return static_cast<int32_t>(std::min<int64_t>(num_sms, INT32_MAX));
}

inline PagedIndexerLogitsParams paged_scoring_params(Tensor const& q, Tensor const& index_cache,
                                                     Tensor const& weights,
                                                     Tensor const& context_lens,
                                                     Tensor const& block_table) {
  PagedIndexerLogitsParams params{};
  params.q = q.const_data_ptr();
  params.q_batch_stride = aligned_stride(q, 0);
  params.q_token_stride = aligned_stride(q, 1);
  params.q_head_stride = aligned_stride(q, 2);
  params.index_cache = index_cache.const_data_ptr();
  params.page_stride_bytes = aligned_stride(index_cache, 0);
  params.num_pages = index_cache.size(0);
  params.weights = data<float>(weights);
  params.weights_row_stride = aligned_stride(weights, 0);
  params.context_lens = data<int32_t>(context_lens);
  params.context_lens_stride = aligned_stride(context_lens, 0);
  params.context_lens_per_token = context_lens.dim() == 2;
  params.block_table = data<int32_t>(block_table);
  params.block_table_stride = aligned_stride(block_table, 0);
  params.pages_per_request = block_table.size(1);
  params.batch = q.size(0);
  params.next_n = q.size(1);
  params.num_heads = static_cast<int32_t>(q.size(2));
  return params;
}

}  // namespace dsa_ops::binding
