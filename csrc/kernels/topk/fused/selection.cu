// Launches of the kernels around the scans: gates before, selection behind.
#include <algorithm>

#include "kernels/topk/fused/gate.cuh"
#include "kernels/topk/fused/launcher.h"
#include "kernels/topk/fused/select.cuh"

namespace dsa_ops::topk_sm90::fused {
namespace {

constexpr char kOp[] = "indexer_topk";

int32_t select_bytes(KernelArgs const& topk) {
  constexpr int32_t kBitmaps = 2;
  return static_cast<int32_t>(sizeof(SelectionStorage)) +
         kBitmaps * 4 * (topk.window_words + topk.window_words / 32);
}

}  // namespace

Status launch_gates(GateArgs const& args, int32_t num_rows, cudaStream_t stream,
                    char const* op) noexcept {
  dim3 const grid(static_cast<unsigned>(args.num_scans + num_rows));
  return launch_grid(row_gates_kernel, args, grid, kGateThreads, 0, op, stream, true);
}

Status launch_select(SelectArgs const& args, int32_t num_rows, cudaStream_t stream,
                     char const* op) noexcept {
  Status const status = allow_shared_memory<list_topk_kernel>(kMaxDynamicBytes, op);
  if (!status.ok()) return status;
  dim3 const grid(static_cast<unsigned>(num_rows));
  return launch_grid(list_topk_kernel, args, grid, kSelectThreads, select_bytes(args.topk), op,
                     stream, true);
}

KernelList selection_kernels() {
  static KernelEntry const kEntries[] = {
      {{"row_gates_kernel", kOp, "a row's sample", kGateThreads, 0, 255},
       reinterpret_cast<void const*>(&row_gates_kernel)},
      {{"list_topk_kernel", kOp, "a row's lists", kSelectThreads, kMaxDynamicBytes, 64},
       reinterpret_cast<void const*>(&list_topk_kernel)},
  };
  return KernelList{kEntries, sizeof(kEntries) / sizeof(kEntries[0])};
}

}  // namespace dsa_ops::topk_sm90::fused
