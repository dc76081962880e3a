#include "kernels/indexer/launch_kernel.cuh"
#include "kernels/topk/listed/launcher.h"
#include "kernels/topk/listed/listing.cuh"

namespace dsa_ops::topk_sm90::listed {
namespace {

template <int kHeads, int kRows>
Status launch(ListingArgs const& args, indexer::LaunchShape const& shape, cudaStream_t stream,
              char const* op) {
  using Tile = ListingTile<kHeads, kRows>;
  return indexer::launch_kernel<sm90_paged_indexer_lists_kernel<kHeads, kRows>,
                                ListingStorage<Tile>, indexer::PagedBlock<Tile>::kThreads>(
      args, shape, stream, op);
}

template <int kHeads, int kRows>
KernelEntry entry(char const* tile) {
  using Tile = ListingTile<kHeads, kRows>;
  using Block = indexer::PagedBlock<Tile>;
  return indexer::kernel_entry<sm90_paged_indexer_lists_kernel<kHeads, kRows>,
                               ListingStorage<Tile>>("sm90_paged_indexer_lists_kernel",
                                                     "paged_indexer_topk", tile, Block::kThreads,
                                                     Block::kLaunchRegisters);
}

}  // namespace

Status launch_listing(ListingArgs const& args, int32_t num_heads, indexer::LaunchShape const& shape,
                      cudaStream_t stream, char const* op) noexcept {
  if (args.lengths.next_n == kMaxRowsOfRequest) {
    return launch<kPairHeads, kMaxRowsOfRequest>(args, shape, stream, op);
  }
  switch (num_heads) {
    case 8: return launch<8, 1>(args, shape, stream, op);
    case 16: return launch<16, 1>(args, shape, stream, op);
    case 32: return launch<32, 1>(args, shape, stream, op);
    default: return launch<64, 1>(args, shape, stream, op);
  }
}

KernelList listing_kernels() {
  static KernelEntry const kEntries[] = {
      entry<64, 2>("2 rows of 64 heads x 1 page"), entry<64, 1>("1 row of 64 heads x 1 page"),
      entry<32, 1>("1 row of 32 heads x 1 page"),  entry<16, 1>("1 row of 16 heads x 1 page"),
      entry<8, 1>("1 row of 8 heads x 1 page"),
  };
  return KernelList{kEntries, sizeof(kEntries) / sizeof(kEntries[0])};
}

}  // namespace dsa_ops::topk_sm90::listed
