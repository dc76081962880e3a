// Launches of the kernels that score: the sample, the scan, and rows scored again.
#include "kernels/indexer/launch_kernel.cuh"
#include "kernels/indexer/sm90_ragged.cuh"
#include "kernels/topk/fused/launcher.h"
#include "kernels/topk/fused/redo.cuh"
#include "kernels/topk/fused/sample.cuh"
#include "kernels/topk/fused/scan.cuh"

namespace dsa_ops::topk_sm90::fused {
namespace {

constexpr char kOp[] = "indexer_topk";

constexpr auto kSample = indexer::sm90_indexer_logits_kernel<kFusedHeads, SampledKeys, false>;
using SampleStorage = SampledKeys::Storage<Tile>;

}  // namespace

Status launch_sample(SampleArgs const& args, indexer::LaunchShape const& shape, cudaStream_t stream,
                     char const* op) noexcept {
  return indexer::launch_kernel<kSample, SampleStorage>(args, shape, stream, op);
}

Status launch_scan(ScanArgs const& args, int32_t grid, cudaStream_t stream,
                   char const* op) noexcept {
  return indexer::launch_kernel<sm90_indexer_scan_kernel, ScanStorage>(args, {grid, true}, stream,
                                                                       op);
}

Status launch_rescore(RescoreArgs const& args, int32_t clusters, cudaStream_t stream,
                      char const* op) noexcept {
  return indexer::launch_kernel<rescore_topk_kernel, RescoreStorage, kRescoreThreads>(
      args, {clusters * kRescoreCluster, true}, stream, op);
}

KernelList scoring_kernels() {
  static KernelEntry const kEntries[] = {
      indexer::kernel_entry<kSample, SampleStorage>("sm90_indexer_logits_kernel", kOp,
                                                    "4 rows of 64 heads x 128 sampled keys"),
      indexer::kernel_entry<sm90_indexer_scan_kernel, ScanStorage>("sm90_indexer_scan_kernel", kOp,
                                                                   "4 rows of 64 heads x 128 keys"),
      indexer::kernel_entry<rescore_topk_kernel, RescoreStorage>(
          "rescore_topk_kernel", kOp, "4 rows of 64 heads", kRescoreThreads, kRescoreRegisters),
  };
  return KernelList{kEntries, sizeof(kEntries) / sizeof(kEntries[0])};
}

}  // namespace dsa_ops::topk_sm90::fused
