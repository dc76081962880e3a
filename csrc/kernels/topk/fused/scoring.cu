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

template <int kHeads>
constexpr auto kSample = indexer::sm90_indexer_logits_kernel<kHeads, SampledKeys, false>;
template <int kHeads>
using SampleStorage = SampledKeys::Storage<RaggedTile<kHeads>>;

template <int kHeads>
Status launch_rescore_heads(RescoreArgs const& args, int32_t clusters, cudaStream_t stream,
                            char const* op) {
  using Storage = RescoreStorage<RaggedTile<kHeads>>;
  return indexer::launch_kernel<rescore_topk_kernel<kHeads>, Storage, kRescoreThreads>(
      args, {clusters * kRescoreCluster, true}, stream, op);
}

template <int kHeads>
KernelEntry sample_entry(char const* tile) {
  return indexer::kernel_entry<kSample<kHeads>, SampleStorage<kHeads>>("sm90_indexer_logits_kernel",
                                                                       kOp, tile);
}
template <int kHeads>
KernelEntry scan_entry(char const* tile) {
  return indexer::kernel_entry<sm90_indexer_scan_kernel<kHeads>, ScanStorage<RaggedTile<kHeads>>>(
      "sm90_indexer_scan_kernel", kOp, tile);
}
template <int kHeads>
KernelEntry rescore_entry(char const* tile) {
  return indexer::kernel_entry<rescore_topk_kernel<kHeads>, RescoreStorage<RaggedTile<kHeads>>>(
      "rescore_topk_kernel", kOp, tile, kRescoreThreads, 65536 / kRescoreThreads - 1);
}

}  // namespace

Status launch_sample(SampleArgs const& args, int32_t num_heads, indexer::LaunchShape const& shape,
                     cudaStream_t stream, char const* op) noexcept {
  return num_heads == 64
             ? indexer::launch_kernel<kSample<64>, SampleStorage<64>>(args, shape, stream, op)
             : indexer::launch_kernel<kSample<32>, SampleStorage<32>>(args, shape, stream, op);
}

Status launch_scan(ScanArgs const& args, int32_t num_heads, int32_t grid, cudaStream_t stream,
                   char const* op) noexcept {
  return num_heads == 64
             ? indexer::launch_kernel<sm90_indexer_scan_kernel<64>, ScanStorage<RaggedTile<64>>>(
                   args, {grid, true}, stream, op)
             : indexer::launch_kernel<sm90_indexer_scan_kernel<32>, ScanStorage<RaggedTile<32>>>(
                   args, {grid, true}, stream, op);
}

Status launch_rescore(RescoreArgs const& args, int32_t num_heads, int32_t clusters,
                      cudaStream_t stream, char const* op) noexcept {
  return num_heads == 64 ? launch_rescore_heads<64>(args, clusters, stream, op)
                         : launch_rescore_heads<32>(args, clusters, stream, op);
}

KernelList scan_kernels() {
  static KernelEntry const kEntries[] = {
      sample_entry<64>("4 rows of 64 heads x 128 sampled keys"),
      sample_entry<32>("8 rows of 32 heads x 128 sampled keys"),
      scan_entry<64>("4 rows of 64 heads x 128 keys"),
      scan_entry<32>("8 rows of 32 heads x 128 keys"),
      rescore_entry<64>("4 rows of 64 heads"),
      rescore_entry<32>("8 rows of 32 heads"),
  };
  return KernelList{kEntries, sizeof(kEntries) / sizeof(kEntries[0])};
}

}  // namespace dsa_ops::topk_sm90::fused
