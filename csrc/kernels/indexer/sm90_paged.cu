#include "kernels/indexer/launch_kernel.cuh"
#include "kernels/indexer/launchers.h"
#include "kernels/indexer/sm90_paged.cuh"

namespace dsa_ops::indexer {
namespace {

template <int kHeads, int kRows, bool kOnly>
Status launch_tile(PagedArgs const& args, LaunchShape const& shape, cudaStream_t stream) {
  using Tile = PagedTile<kHeads, kRows, kOnly>;
  return launch_kernel<sm90_paged_indexer_logits_kernel<kHeads, kRows, kOnly>, PagedStorage<Tile>,
                       PagedBlock<Tile>::kThreads>(args, shape, stream, "paged_indexer_logits");
}

template <int kHeads, int kRows>
Status launch_tiles(PagedArgs const& args, LaunchShape const& shape, cudaStream_t stream) {
  return args.row_tiles == 1 ? launch_tile<kHeads, kRows, true>(args, shape, stream)
                             : launch_tile<kHeads, kRows, false>(args, shape, stream);
}

template <int kHeads>
Status launch(PagedArgs const& args, int32_t tile_rows, LaunchShape const& shape,
              cudaStream_t stream) {
  switch (tile_rows) {
    case 1: return launch_tiles<kHeads, 1>(args, shape, stream);
    case 2: return launch_tiles<kHeads, 2>(args, shape, stream);
    default: return launch_tiles<kHeads, 4>(args, shape, stream);
  }
}

template <int kHeads, int kRows, bool kOnly = false>
KernelEntry entry(char const* tile) {
  using Tile = PagedTile<kHeads, kRows, kOnly>;
  return kernel_entry<sm90_paged_indexer_logits_kernel<kHeads, kRows, kOnly>, PagedStorage<Tile>>(
      "sm90_paged_indexer_logits_kernel", "paged_indexer_logits", tile, PagedBlock<Tile>::kThreads,
      PagedBlock<Tile>::kLaunchRegisters);
}

}  // namespace

Status launch_paged(PagedArgs const& args, int32_t num_heads, int32_t tile_rows,
                    LaunchShape const& shape, cudaStream_t stream) noexcept {
  switch (num_heads) {
    case 8: return launch<8>(args, tile_rows, shape, stream);
    case 16: return launch<16>(args, tile_rows, shape, stream);
    case 32: return launch<32>(args, tile_rows, shape, stream);
    default: return launch<64>(args, tile_rows, shape, stream);
  }
}

KernelList paged_kernels() {
  static KernelEntry const kEntries[] = {
      entry<64, 1>("1 row of 64 heads x 1 page"),
      entry<64, 1, true>("1 row of 64 heads x 1 page, the only tile"),
      entry<64, 2>("2 rows of 64 heads x 1 page"),
      entry<64, 2, true>("2 rows of 64 heads x 1 page, the only tile"),
      entry<64, 4>("4 rows of 64 heads x 2 pages"),
      entry<64, 4, true>("4 rows of 64 heads x 2 pages, the only tile"),
      entry<32, 1>("1 row of 32 heads x 1 page"),
      entry<32, 1, true>("1 row of 32 heads x 1 page, the only tile"),
      entry<32, 2>("2 rows of 32 heads x 1 page"),
      entry<32, 2, true>("2 rows of 32 heads x 1 page, the only tile"),
      entry<32, 4>("4 rows of 32 heads x 1 page"),
      entry<32, 4, true>("4 rows of 32 heads x 1 page, the only tile"),
      entry<16, 1>("1 row of 16 heads x 1 page"),
      entry<16, 1, true>("1 row of 16 heads x 1 page, the only tile"),
      entry<16, 2>("2 rows of 16 heads x 1 page"),
      entry<16, 2, true>("2 rows of 16 heads x 1 page, the only tile"),
      entry<16, 4>("4 rows of 16 heads x 1 page"),
      entry<16, 4, true>("4 rows of 16 heads x 1 page, the only tile"),
      entry<8, 1>("1 row of 8 heads x 1 page"),
      entry<8, 1, true>("1 row of 8 heads x 1 page, the only tile"),
      entry<8, 2>("2 rows of 8 heads x 1 page"),
      entry<8, 2, true>("2 rows of 8 heads x 1 page, the only tile"),
      entry<8, 4>("4 rows of 8 heads x 1 page"),
      entry<8, 4, true>("4 rows of 8 heads x 1 page, the only tile"),
  };
  return KernelList{kEntries, sizeof(kEntries) / sizeof(kEntries[0])};
}

}  // namespace dsa_ops::indexer
