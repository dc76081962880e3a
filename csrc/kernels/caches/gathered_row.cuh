// Where a gathered row comes from: request by binary search, page by block table.
#pragma once
#include <cstdint>

namespace dsa_ops::caches {

struct GatheredRow {
  int64_t page = -1;     // -1: no page of the cache holds the token, the row is zeros
  int64_t offset = 0;    // of the token in its page
  bool covered = false;  // false: the row belongs to no request and stays untouched
};

// Finds the last request that starts at or before the row and checks that the row lies inside it,
// so that entries out of order or past the end select nothing rather than a wrong address.
template <class Params>
__device__ __forceinline__ GatheredRow locate_row(Params const& params, int64_t row,
                                                  int64_t page_size) {
  int64_t low = 0;
  int64_t high = params.num_requests + 1;
  while (low < high) {
    int64_t const middle = (low + high) / 2;
    if (params.cu_seq_lens[middle] <= row) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  GatheredRow found;
  int64_t const request = low - 1;
  if (request < 0 || request >= params.num_requests) return found;
  int64_t const position = row - params.cu_seq_lens[request];
  found.covered = position >= 0 && row < params.cu_seq_lens[request + 1];
  int64_t const column = position / page_size;
  if (!found.covered || column >= params.pages_per_request) return found;
  int64_t const page = params.block_table[request * params.block_table_stride + column];
  if (page >= 0 && page < params.num_pages) found.page = page;
  found.offset = position % page_size;
  return found;
}

}  // namespace dsa_ops::caches
