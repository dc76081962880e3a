// Exact selection of the best keys of each row, alone and chained with the indexer.
//
// The result is the top_k largest logits of the row's range: equal logits go to the lower position,
// -0 equals +0, NaN ranks as -inf. Positions are relative to the row's start, in ascending order,
// then -1. With a block table they become slots, page * 64 + position % 64 (-1 where the page is
// not a page of the cache: negative). Row offsets are added to what is not -1.
#pragma once
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "dsa_ops/indexer.h"
#include "dsa_ops/status.h"

namespace dsa_ops {
inline namespace v0 {

enum class LogitsType : int32_t { kFloat32 = 0, kBfloat16 = 1 };

inline constexpr int32_t kMaxTopk = 4096;

struct TopkParams {
  void const* logits;  // [num_rows, num_columns]
  LogitsType logits_type;
  int64_t logits_row_stride;
  int32_t const* row_starts;  // [num_rows], nullable: all zero
  int32_t const* row_ends;    // [num_rows]; ranges are clamped to [0, num_columns)
  int32_t* indices;           // [num_rows, top_k]
  int64_t indices_row_stride;
  int64_t num_rows;
  int64_t num_columns;
  int32_t const* row_offsets;  // [num_rows], nullable: all zero
  bool pdl;                    // as in dsa_ops/indexer.h
  int32_t top_k;               // 1 ... kMaxTopk
  bool to_slots;               // through block_table; the fields below are ignored otherwise
  int32_t const* block_table;  // [num_requests, pages_per_request]
  int64_t block_table_stride;
  int64_t num_requests;
  int64_t pages_per_request;
  int32_t const* row_to_request;  // [num_rows], nullable: row / (num_rows / num_requests)
};
DSA_OPS_API Status topk(TopkParams const& params, cudaStream_t stream) noexcept;

// topk(indexer_logits(...)) without the logits: of many rows of a long context only those are kept
// that may be among the best; of others a chunk of rows at a time. Ignored are scoring.logits, its
// stride and clean, and what `selection` says of rows, columns and ranges: `scoring` has them; also
// row_offsets and pdl. scoring.num_sms bounds the kernels that score; scoring.pdl asks for
// programmatic dependent launch of the first of them.
struct IndexerTopkParams {
  IndexerLogitsParams scoring;
  TopkParams selection;
  void* workspace;         // 256-byte aligned
  size_t workspace_bytes;  // at least the size below
};
DSA_OPS_API size_t indexer_topk_workspace_bytes(int64_t num_rows, int64_t num_keys) noexcept;
DSA_OPS_API Status indexer_topk(IndexerTopkParams const& params, cudaStream_t stream) noexcept;

// topk(paged_indexer_logits(...)), likewise; row_to_request and num_requests are ignored too. Slots
// come through selection.block_table, which may be that of `scoring`. Rows not longer than top_k
// are not scored. num_sms and pdl hold as for indexer_topk; the kernels of a call overlap by
// programmatic dependent launch either way. The workspace is at most 90 MB and a length per row, or
// what the logits of a single row take.
struct PagedIndexerTopkParams {
  PagedIndexerLogitsParams scoring;
  TopkParams selection;
  void* workspace;         // 256-byte aligned
  size_t workspace_bytes;  // at least the size below
};
DSA_OPS_API size_t paged_indexer_topk_workspace_bytes(int64_t num_rows,
                                                      int64_t max_context_len) noexcept;
DSA_OPS_API Status paged_indexer_topk(PagedIndexerTopkParams const& params,
                                      cudaStream_t stream) noexcept;

}  // namespace v0
}  // namespace dsa_ops
