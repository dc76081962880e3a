// paged_indexer_topk of short rows, one per request, in one kernel.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

#include "dsa_ops/topk.h"
#include "kernels/launch.h"
#include "kernels/topk/owned/traits.h"

namespace dsa_ops::topk_sm90::owned {

// As many rows as multiprocessors, or nearly so, or enough of them to come and go: between, the last
// ones would be alone. Fewer leave memory idle when lengths differ.
constexpr bool owns_rows(int64_t num_rows, int64_t rows_per_request, int64_t num_columns,
                         int32_t num_sms) {
  bool const at_once = 8 * num_rows >= 7 * num_sms && num_rows <= num_sms;
  bool const in_turn = 5 * num_rows >= 6 * num_sms;
  return rows_per_request == 1 && num_columns <= kMaxColumns && (at_once || in_turn);
}

// A call whose arguments have been checked.
Status owned_topk(PagedIndexerLogitsParams const& scoring, TopkParams const& selection,
                  cudaStream_t stream, char const* op) noexcept;

}  // namespace dsa_ops::topk_sm90::owned
