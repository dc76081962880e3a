// The order of a row's pages, and the parts that blocks score of it.
#pragma once
#include <cstdint>

#include "kernels/indexer/row_length.h"
#include "kernels/topk/listed/traits.h"

namespace dsa_ops::topk_sm90::listed {

// A page of each stratum in turn, strata in the order of their number's reversed bits, so that any
// few pages in sequence resemble the row, whatever trend it has. Places may lie past the last page.
struct PagesByStrata {
  int32_t pages;
  int32_t stratum;  // pages of one; 0: in order

  __device__ __forceinline__ explicit PagesByStrata(int32_t row_pages)
      : pages(row_pages),
        stratum(row_pages < 2 * kStrata ? 0 : (row_pages + kStrata - 1) / kStrata) {}
  __device__ __forceinline__ int32_t count() const {
    return stratum == 0 ? pages : stratum * kStrata;
  }
  __device__ __forceinline__ int32_t page(int32_t place) const {
    int32_t const turn = static_cast<int32_t>(__brev(place) >> (32 - kStrataLog2));
    return stratum == 0 ? place : turn * stratum + place / kStrata;
  }
};

__device__ __forceinline__ int32_t pages_of_length(int32_t length) {
  return (length + indexer::kPageKeys - 1) / indexer::kPageKeys;
}

// The parts of a request: that of `first_block` and those of the next blocks.
struct RequestParts {
  int32_t first_block;
  int32_t count;

  RequestParts() = default;
  // By a whole warp: as the producers of the listing kernel share out the pages.
  __device__ __forceinline__ RequestParts(indexer::RowLengths const& lengths, int32_t num_requests,
                                          int32_t request, int32_t unscored_length,
                                          int32_t blocks) {
    auto const places = [&](int32_t of) {
      int32_t const length = max(lengths.of(of, 0), lengths.of(of, lengths.next_n - 1));
      return length <= unscored_length ? 0 : PagesByStrata(pages_of_length(length)).count();
    };
    int32_t before = 0;
    int32_t total = 0;
    for (int32_t i = threadIdx.x % 32; i < num_requests; i += 32) {
      int32_t const own = places(i);
      total += own;
      before += i < request ? own : 0;
    }
    before = __reduce_add_sync(~0u, before);
    total = __reduce_add_sync(~0u, total);
    int32_t const own = places(request);
    int32_t const share = max((total + blocks - 1) / blocks, 1);
    first_block = before / share;
    count = own == 0 ? 0 : (before + own - 1) / share - first_block + 1;
  }
};

}  // namespace dsa_ops::topk_sm90::listed
