#include "kernels/indexer/launch_kernel.cuh"
#include "kernels/indexer/launchers.h"
#include "kernels/indexer/sm90_ragged.cuh"

namespace dsa_ops::indexer {
namespace {

template <int kHeads>
Status launch(RaggedArgs const& args, bool clean, int32_t grid, cudaStream_t stream) {
  using Storage = RaggedStorage<RaggedTile<kHeads>>;
  constexpr char const* kOp = "indexer_logits";
  return clean ? launch_kernel<sm90_indexer_logits_kernel<kHeads, true>, Storage>(args, grid,
                                                                                  stream, kOp)
               : launch_kernel<sm90_indexer_logits_kernel<kHeads, false>, Storage>(args, grid,
                                                                                   stream, kOp);
}

template <int kHeads, bool kClean>
KernelEntry entry(char const* tile) {
  return kernel_entry<sm90_indexer_logits_kernel<kHeads, kClean>,
                      RaggedStorage<RaggedTile<kHeads>>>("sm90_indexer_logits_kernel",
                                                         "indexer_logits", tile);
}

}  // namespace

Status launch_ragged(RaggedArgs const& args, int32_t num_heads, bool clean, int32_t grid,
                     cudaStream_t stream) noexcept {
  switch (num_heads) {
    case 8: return launch<8>(args, clean, grid, stream);
    case 16: return launch<16>(args, clean, grid, stream);
    case 32: return launch<32>(args, clean, grid, stream);
    default: return launch<64>(args, clean, grid, stream);
  }
}

KernelList ragged_kernels() {
  static KernelEntry const kEntries[] = {
      entry<64, false>("4 rows of 64 heads x 128 keys"),
      entry<32, false>("8 rows of 32 heads x 128 keys"),
      entry<16, false>("16 rows of 16 heads x 128 keys"),
      entry<8, false>("32 rows of 8 heads x 128 keys"),
      entry<64, true>("4 rows of 64 heads x 128 keys, -inf outside the ranges"),
      entry<32, true>("8 rows of 32 heads x 128 keys, -inf outside the ranges"),
      entry<16, true>("16 rows of 16 heads x 128 keys, -inf outside the ranges"),
      entry<8, true>("32 rows of 8 heads x 128 keys, -inf outside the ranges"),
  };
  return KernelList{kEntries, sizeof(kEntries) / sizeof(kEntries[0])};
}

}  // namespace dsa_ops::indexer
