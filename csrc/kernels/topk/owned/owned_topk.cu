#include <cstdint>

#include "kernels/indexer/launch_kernel.cuh"
#include "kernels/indexer/launchers.h"
#include "kernels/topk/kernel_args.h"
#include "kernels/topk/owned/launcher.h"
#include "kernels/topk/owned/owned_topk.cuh"

namespace dsa_ops {
namespace topk_sm90::owned {
namespace {

template <int kHeads>
Status launch(OwnedArgs const& args, indexer::LaunchShape const& shape, cudaStream_t stream,
              char const* op) {
  using Tile = indexer::PagedTile<kHeads, 1>;
  return indexer::launch_kernel<owned_topk_kernel<kHeads>, SharedStorage<Tile>, kThreads>(
      args, shape, stream, op);
}

template <int kHeads>
KernelEntry entry(char const* tile) {
  using Tile = indexer::PagedTile<kHeads, 1>;
  return indexer::kernel_entry<owned_topk_kernel<kHeads>, SharedStorage<Tile>>(
      "owned_topk_kernel", "paged_indexer_topk", tile, kThreads, 65536 / kThreads);
}

}  // namespace

Status owned_topk(PagedIndexerLogitsParams const& scoring, TopkParams const& selection,
                  cudaStream_t stream, char const* op) noexcept {
  OwnedArgs args{};
  indexer::PagedPlan plan;
  Status const status = indexer::prepare_pages(scoring, selection.top_k, &plan, &args.scoring, op);
  if (!status.ok()) return status;
  args.topk = kernel_args(selection, indexer::row_lengths_of(scoring), 0, 0);
  indexer::LaunchShape const shape{static_cast<int32_t>(scoring.batch), scoring.pdl};
  switch (scoring.num_heads) {
    case 8: return launch<8>(args, shape, stream, op);
    case 16: return launch<16>(args, shape, stream, op);
    case 32: return launch<32>(args, shape, stream, op);
    default: return launch<64>(args, shape, stream, op);
  }
}

}  // namespace topk_sm90::owned

KernelList owned_topk_kernels() {
  using namespace topk_sm90::owned;
  static KernelEntry const kEntries[] = {
      entry<64>("a row of 64 heads"),
      entry<32>("a row of 32 heads"),
      entry<16>("a row of 16 heads"),
      entry<8>("a row of 8 heads"),
  };
  return KernelList{kEntries, sizeof(kEntries) / sizeof(kEntries[0])};
}

}  // namespace dsa_ops
