// The indexer's entry points: plan, tensor maps, launch.
#include "dsa_ops/indexer.h"

#include <cstdint>
#include <vector>

#include "kernels/indexer/checks.h"
#include "kernels/indexer/launchers.h"
#include "kernels/indexer/tensor_map.h"
#include "kernels/indexer/traits.h"
#include "kernels/launch.h"
#include "kernels/topk/row_lengths.h"

namespace dsa_ops {
namespace {

using indexer::kHeadDim;
using indexer::kPageKeys;
using indexer::kStageKeys;

Status encode_maps(PagedIndexerLogitsParams const& p, int32_t tile_rows, indexer::PagedArgs* args,
                   char const* op) {
  indexer::TensorMapDim const queries[] = {{kHeadDim, 0, kHeadDim},
                                           {p.num_heads, p.q_head_stride, p.num_heads},
                                           {p.next_n, p.q_token_stride, tile_rows},
                                           {p.batch, p.q_batch_stride, 1}};
  Status const status = indexer::encode_tensor_map(&args->query_map, p.q, queries, 4, op);
  // A cache without pages has no map, and the kernel no page to load through it.
  if (!status.ok() || p.num_pages == 0) return status;
  indexer::TensorMapDim const pages[] = {{kHeadDim, 0, kHeadDim},
                                         {kPageKeys, kHeadDim, kPageKeys},
                                         {p.num_pages, p.page_stride_bytes, 1}};
  return indexer::encode_tensor_map(&args->key_map, p.index_cache, pages, 3, op);
}

}  // namespace

inline namespace v0 {

Status indexer_logits(IndexerLogitsParams const& p, cudaStream_t stream) noexcept {
  constexpr char const* kOp = "indexer_logits";
  Status status = indexer::check_arguments(p, kOp);
  if (!status.ok() || p.num_rows == 0 || p.num_keys == 0) return status;
  DeviceProperties device;
  status = current_device(&device, kOp);
  if (!status.ok()) return status;

  indexer::RaggedPlan const plan =
      indexer::plan_ragged(static_cast<int32_t>(p.num_rows), static_cast<int32_t>(p.num_keys),
                           p.num_heads, device.num_sms);
  indexer::RaggedArgs args{};
  indexer::TensorMapDim const queries[] = {
      {kHeadDim, 0, kHeadDim},
      {p.num_heads, p.q_head_stride, p.num_heads},
      {p.num_rows, p.q_row_stride, indexer::kRaggedColumns / p.num_heads}};
  indexer::TensorMapDim const keys[] = {{kHeadDim, 0, kHeadDim},
                                        {p.num_keys, p.k_stride, kStageKeys}};
  status = indexer::encode_tensor_map(&args.query_map, p.q, queries, 3, kOp);
  if (status.ok()) status = indexer::encode_tensor_map(&args.key_map, p.k, keys, 2, kOp);
  if (!status.ok()) return status;

  args.k_scale = p.k_scale;
  args.weights = p.weights;
  args.weights_row_stride = p.weights_row_stride;
  args.row_starts = p.row_starts;
  args.row_ends = p.row_ends;
  args.logits = p.logits;
  args.logits_row_stride = p.logits_row_stride;
  args.num_rows = static_cast<int32_t>(p.num_rows);
  args.num_keys = static_cast<int32_t>(p.num_keys);
  args.row_tiles = plan.row_tiles;
  args.key_tiles = plan.key_tiles;
  args.pieces = plan.pieces;
  return indexer::launch_ragged(args, p.num_heads, p.clean, plan.grid, stream);
}

Status paged_indexer_logits(PagedIndexerLogitsParams const& p, cudaStream_t stream) noexcept {
  constexpr char const* kOp = "paged_indexer_logits";
  Status status = indexer::check_arguments(p, kOp);
  if (!status.ok() || p.batch * p.next_n == 0 || p.max_context_len == 0) return status;
  DeviceProperties device;
  status = current_device(&device, kOp);
  if (!status.ok()) return status;

  indexer::PagedPlan const plan =
      indexer::plan_paged(static_cast<int32_t>(p.batch), static_cast<int32_t>(p.next_n),
                          static_cast<int32_t>(p.max_context_len), device.num_sms);
  indexer::PagedArgs args{};
  status = encode_maps(p, plan.tile_rows, &args, kOp);
  if (!status.ok()) return status;

  args.index_cache = static_cast<uint8_t const*>(p.index_cache);
  args.page_stride_bytes = p.page_stride_bytes;
  args.num_pages = p.num_pages;
  args.weights = p.weights;
  args.weights_row_stride = p.weights_row_stride;
  args.lengths = indexer::row_lengths_of(p);
  args.block_table = p.block_table;
  args.block_table_stride = p.block_table_stride;
  args.logits = p.logits;
  args.logits_row_stride = p.logits_row_stride;
  args.tiles_per_request = plan.tiles_per_request;
  args.row_tiles = plan.row_tiles;
  args.max_context_len = static_cast<int32_t>(p.max_context_len);
  return indexer::launch_paged(args, p.num_heads, plan, stream);
}

}  // namespace v0

KernelList indexer_kernels() {
  static std::vector<KernelEntry> const kEntries = [] {
    std::vector<KernelEntry> entries;
    for (KernelList const list : {indexer::ragged_kernels(), indexer::paged_kernels()}) {
      entries.insert(entries.end(), list.entries, list.entries + list.count);
    }
    entries.push_back(topk_detail::row_lengths_kernel());  // serves paged_indexer_topk
    return entries;
  }();
  return KernelList{kEntries.data(), static_cast<int>(kEntries.size())};
}

}  // namespace dsa_ops
