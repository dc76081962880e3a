// paged_indexer_topk of short rows, one per request, in one kernel.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

#include "dsa_ops/topk.h"
#include "kernels/launch.h"
#include "kernels/topk/owned/traits.h"

namespace dsa_ops::topk_sm90::owned {

// Rows that a block each scores at once, and enough of them to keep the memory busy.
constexpr bool owns_rows(int64_t num_rows, int64_t rows_per_request, int64_t num_columns,
                         int32_t num_sms) {
  return rows_per_request == 1 && num_columns <= kMaxColumns && num_rows <= num_sms &&
         2 * num_rows >= num_sms;
}

// A call whose arguments have been checked.
Status owned_topk(PagedIndexerLogitsParams const& scoring, TopkParams const& selection,
                  cudaStream_t stream, char const* op) noexcept;

}  // namespace dsa_ops::topk_sm90::owned
