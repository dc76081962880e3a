// paged_indexer_topk of short rows, one per request, in one kernel.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

#include "dsa_ops/topk.h"
#include "kernels/launch.h"
#include "kernels/topk/owned/traits.h"

namespace dsa_ops::topk_sm90::owned {

// As many rows as multiprocessors or nearly so, of short rows half as many; or enough to come and
// go. Between, the last rows would be alone. README.md has what else was measured.
constexpr bool owns_rows(int64_t num_rows, int64_t rows_per_request, int64_t num_columns,
                         int32_t num_sms) {
  int64_t const fewest = num_columns <= kMaxColumns / 2 ? num_sms / 2 : num_sms - num_sms / 16;
  bool const at_once = num_rows >= fewest && num_rows <= num_sms;
  bool const in_turn = 4 * num_rows >= 5 * num_sms;
  return rows_per_request == 1 && num_columns <= kMaxColumns && (at_once || in_turn);
}

// A call whose arguments have been checked.
Status owned_topk(PagedIndexerLogitsParams const& scoring, TopkParams const& selection,
                  cudaStream_t stream, char const* op) noexcept;

}  // namespace dsa_ops::topk_sm90::owned
