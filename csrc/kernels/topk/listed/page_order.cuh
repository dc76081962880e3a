// The order of a row's pages, and the parts that blocks score of it.
#pragma once
#include <cstdint>

#include "kernels/indexer/paged_producer.cuh"
#include "kernels/indexer/row_length.h"
#include "kernels/topk/listed/args.h"
#include "kernels/topk/listed/traits.h"

namespace dsa_ops::topk_sm90::listed {

// A page of each stratum in turn, strata in the order of their number's reversed bits, so that any
// few pages in sequence resemble the row, whatever trend it has. Places may lie past the last page.
struct PagesByStrata {
  using Args = ListingArgs;
  static constexpr bool kTaken = false;
  static constexpr bool kTilePerRequest = true;
  static constexpr bool kFills = false;
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
// A part of a long row's places are left to those of its blocks that keys reach sooner.
struct PagesTaken : PagesByStrata {
  static constexpr bool kTaken = true;
  using PagesByStrata::PagesByStrata;

  // A part that lists nothing, and says nothing of the row's gate.
  static __device__ __forceinline__ void skip_part(ListingArgs const& args, int32_t row, int lane) {
    if (lane == 0) args.parts[part_index(row, blockIdx.x, 1, 0)] = ListedPart{0, 0, 0, -1};
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
  __device__ __forceinline__ RequestParts(ListingArgs const& args, int32_t num_requests,
                                          int32_t request, int32_t blocks) {
    auto const order_of = [&](int32_t of) {
      int32_t const length =
          max(args.lengths.of(of, 0), args.lengths.of(of, args.lengths.next_n - 1));
      return PagesByStrata(length <= args.unscored_length ? 0 : pages_of_length(length));
    };
    int32_t before = 0;
    int32_t total = 0;
    for (int32_t i = threadIdx.x % 32; i < num_requests; i += 32) {
      int32_t const own = order_of(i).count();
      total += own;
      before += i < request ? own : 0;
    }
    before = __reduce_add_sync(~0u, before);
    total = __reduce_add_sync(~0u, total);
    int32_t const own = order_of(request).count();
    indexer::PageShares const shares(total, blocks, args.tickets);
    first_block = 0;
    count = 0;
    if (own == 0) return;
    first_block = static_cast<int32_t>(shares.block_at(before));
    count = static_cast<int32_t>(shares.block_at(before + own - 1)) - first_block + 1;
  }
};

}  // namespace dsa_ops::topk_sm90::listed
