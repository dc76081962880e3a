#include <algorithm>
#include <cstdint>

#include "kernels/indexer/launch_kernel.cuh"
#include "kernels/topk/listed/launcher.h"
#include "kernels/topk/listed/select.cuh"

namespace dsa_ops::topk_sm90::listed {
namespace {

int64_t selection_bytes(KernelArgs const& args) {
  return static_cast<int64_t>(sizeof(Candidate)) * args.capacity +
         static_cast<int64_t>(sizeof(uint32_t)) * bitmap_words(args.window_words) +
         static_cast<int64_t>(sizeof(uint16_t)) * args.window_words +
         2 * static_cast<int64_t>(sizeof(int32_t)) * args.top_k;
}

template <int kHeads>
Status launch(SelectArgs const& args, int32_t num_rows, cudaStream_t stream, char const* op) {
  constexpr auto kKernel = parts_topk_kernel<kHeads>;
  constexpr int64_t kScoringBytes =
      kScorers * sizeof(indexer::PagedStorage<indexer::PagedTile<kHeads, 1>>) + 1023;
  static_assert(sizeof(SelectStorage) + kScoringBytes <= kMaxDynamicBytes,
                "What scoring a row takes must fit.");
  Status const status = indexer::allow_all_shared_memory<kKernel>(op);
  if (!status.ok()) return status;
  int64_t const shared_bytes =
      sizeof(SelectStorage) + std::max(kScoringBytes, selection_bytes(args.topk));
  return launch_grid(kKernel, args, dim3(static_cast<unsigned>(num_rows)), kThreads,
                     static_cast<int>(shared_bytes), op, stream, true);
}

template <int kHeads>
KernelEntry entry(char const* tile) {
  return KernelEntry{{"parts_topk_kernel", "paged_indexer_topk", tile, kThreads, kMaxDynamicBytes,
                      65536 / kThreads},
                     reinterpret_cast<void const*>(&parts_topk_kernel<kHeads>)};
}

}  // namespace

Status launch_selection(SelectArgs const& args, int32_t num_heads, int32_t num_rows,
                        cudaStream_t stream, char const* op) noexcept {
  switch (num_heads) {
    case 8: return launch<8>(args, num_rows, stream, op);
    case 16: return launch<16>(args, num_rows, stream, op);
    case 32: return launch<32>(args, num_rows, stream, op);
    default: return launch<64>(args, num_rows, stream, op);
  }
}

KernelList selection_kernels() {
  static KernelEntry const kEntries[] = {
      entry<64>("a row of 64 heads"),
      entry<32>("a row of 32 heads"),
      entry<16>("a row of 16 heads"),
      entry<8>("a row of 8 heads"),
  };
  return KernelList{kEntries, sizeof(kEntries) / sizeof(kEntries[0])};
}

}  // namespace dsa_ops::topk_sm90::listed
