// When paged_indexer_topk lists candidates instead of storing logits, and what that takes.
#pragma once
#include <algorithm>
#include <cstdint>

#include "kernels/topk/candidates.h"
#include "kernels/topk/listed/traits.h"

namespace dsa_ops::topk_sm90::listed {

inline constexpr int64_t kMinColumns = 8192;    // more
inline constexpr int64_t kMaxColumns = 262144;  // whose winners' bitmap fits shared memory
inline constexpr int64_t kMinLogits = int64_t{1} << 20;
inline constexpr int64_t kMaxTakenPages = 80000;  // fewer, where blocks take some as they come
inline constexpr int64_t kMinPairLogits = int64_t{1} << 23;  // of two rows per request

// Calls whose parts are long enough for a sample to tell something, and whose rows a single round
// of selecting blocks settles. `num_sms`: multiprocessors of the device.
constexpr bool lists_rows(int64_t num_rows, int64_t num_columns, int32_t num_sms) {
  return num_rows <= std::min(num_sms, kMaxRows) && num_columns > kMinColumns &&
         num_columns <= kMaxColumns && num_rows * num_columns >= kMinLogits;
}
constexpr bool lists_candidates(int64_t num_rows, int64_t rows_per_request, int32_t num_heads,
                                int64_t num_columns, int32_t top_k, int32_t num_sms) {
  bool const pairs = rows_per_request == kMaxRowsOfRequest && num_heads == kPairHeads &&
                     num_rows * num_columns >= kMinPairLogits;
  return (rows_per_request == 1 || pairs) && top_k <= kMaxListedTopk &&
         lists_rows(num_rows, num_columns, num_sms);
}

// Bytes of headers and lists, whatever the device, head count and top_k; 0 if no such call lists.
constexpr int64_t workspace_bytes(int64_t num_rows, int64_t num_columns) {
  if (!lists_rows(num_rows, num_columns, kMaxRows)) return 0;
  int64_t const part_bytes = sizeof(ListedPart) + kPartCandidates * sizeof(Candidate);
  return (num_rows + kMaxParts) * part_bytes + kMaxRows * int64_t{sizeof(uint64_t)};
}

}  // namespace dsa_ops::topk_sm90::listed
