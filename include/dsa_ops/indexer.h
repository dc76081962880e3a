// The lightning indexer: logits[t, n] = k_scale[n] * sum_h weights[t, h] * relu(q[t, h] . k[n]).
//
// Pointers are device pointers; q and k hold e4m3. Strides are in elements; the last dimension is
// contiguous. q, k and page strides are multiples of 16 bytes, their bases 16-byte aligned.
//
// How a call is launched, the same for all and without an effect on its results: num_sms bounds the
// multiprocessors that it occupies (0: all of the device), for engines that overlap streams; pdl
// asks for programmatic dependent launch, so that its first steps overlap the end of the kernel
// before it on the stream. Every kernel here lets the next one start in this way.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

#include "dsa_ops/status.h"

namespace dsa_ops {
inline namespace v0 {

// Row t scores keys row_starts[t] <= n < row_ends[t] (clamped to [0, num_keys)). Columns outside
// are -inf when `clean`, else left as they are or overwritten with any value.
struct IndexerLogitsParams {
  void const* q;  // e4m3 [num_rows, num_heads, 128]
  int64_t q_row_stride, q_head_stride;
  void const* k;  // e4m3 [num_keys, 128]
  int64_t k_stride;
  float const* k_scale;  // [num_keys]
  float const* weights;  // [num_rows, num_heads]
  int64_t weights_row_stride;
  int32_t const* row_starts;  // [num_rows]
  int32_t const* row_ends;    // [num_rows]
  float* logits;              // [num_rows, num_keys]
  int64_t logits_row_stride;
  int64_t num_rows;
  int64_t num_keys;
  int32_t num_heads;  // 8, 16, 32 or 64
  bool clean;
  int32_t num_sms;
  bool pdl;
};
DSA_OPS_API Status indexer_logits(IndexerLogitsParams const& params, cudaStream_t stream) noexcept;

// The same with the keys in an index cache, where they are: a list lays pages end to end, and key n
// of the call is token n % 64 of page page_ids[n / 64]. Rows of several requests go in one call:
// each request's pages follow one another in the list, and its rows' ranges start at 64 times the
// place of its first. Keys whose page is not in the cache are never read; their logits are -inf.
struct CachedIndexerLogitsParams {
  void const* q;  // e4m3 [num_rows, num_heads, 128]
  int64_t q_row_stride, q_head_stride;
  void const* index_cache;  // uint8 [num_pages, 64, 132]
  int64_t page_stride_bytes;
  int64_t num_pages;
  int32_t const* page_ids;  // [num_page_ids]
  int64_t num_page_ids;
  float const* weights;  // [num_rows, num_heads]
  int64_t weights_row_stride;
  int32_t const* row_starts;  // [num_rows]
  int32_t const* row_ends;    // [num_rows]
  float* logits;              // [num_rows, 64 * num_page_ids]
  int64_t logits_row_stride;
  int64_t num_rows;
  int32_t num_heads;  // 8, 16, 32 or 64
  bool clean;
  int32_t num_sms;
  bool pdl;
};
DSA_OPS_API Status cached_indexer_logits(CachedIndexerLogitsParams const& params,
                                         cudaStream_t stream) noexcept;

// Row b * next_n + j scores the first len keys of request b, where len is context_lens[b, j] when
// context_lens is given per token and context_lens[b] - next_n + 1 + j when it is given per
// request. Columns at and after the row's length are -inf, as are columns whose page is not in the
// cache.
struct PagedIndexerLogitsParams {
  void const* q;  // e4m3 [batch, next_n, num_heads, 128]
  int64_t q_batch_stride, q_token_stride, q_head_stride;
  void const* index_cache;  // uint8 [num_pages, 64, 132]
  int64_t page_stride_bytes;
  int64_t num_pages;
  float const* weights;  // [batch * next_n, num_heads]
  int64_t weights_row_stride;
  int32_t const* context_lens;  // [batch, next_n] or [batch]
  int64_t context_lens_stride;  // between requests
  bool context_lens_per_token;
  int32_t const* block_table;  // [batch, pages_per_request]
  int64_t block_table_stride;
  int64_t pages_per_request;
  float* logits;  // [batch * next_n, max_context_len]
  int64_t logits_row_stride;
  int64_t batch;
  int64_t next_n;
  int64_t max_context_len;
  int32_t num_heads;  // 8, 16, 32 or 64
  int32_t num_sms;
  bool pdl;
};
DSA_OPS_API Status paged_indexer_logits(PagedIndexerLogitsParams const& params,
                                        cudaStream_t stream) noexcept;

}  // namespace v0
}  // namespace dsa_ops
