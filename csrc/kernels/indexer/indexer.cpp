// The indexer's entry points: plan, tensor maps, launch.
#include "dsa_ops/indexer.h"

#include <algorithm>
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

// Blocks to launch at most, one per multiprocessor.
int32_t block_limit(DeviceProperties const& device, int32_t num_sms) {
  return num_sms == 0 ? device.num_sms : std::min(device.num_sms, num_sms);
}

// The pages of an index cache, a box each. A cache without pages has no map, and the kernels no
// page to load through it.
Status encode_pages(CUtensorMap* map, void const* index_cache, int64_t num_pages,
                    int64_t page_stride_bytes, char const* op) {
  if (num_pages == 0) return Status{};
  indexer::TensorMapDim const pages[] = {
      {kHeadDim, 0, kHeadDim}, {kPageKeys, kHeadDim, kPageKeys}, {num_pages, page_stride_bytes, 1}};
  return indexer::encode_tensor_map(map, index_cache, pages, 3, op);
}

Status encode_maps(PagedIndexerLogitsParams const& p, int32_t tile_rows, indexer::PagedArgs* args,
                   char const* op) {
  indexer::TensorMapDim const queries[] = {{kHeadDim, 0, kHeadDim},
                                           {p.num_heads, p.q_head_stride, p.num_heads},
                                           {p.next_n, p.q_token_stride, tile_rows},
                                           {p.batch, p.q_batch_stride, 1}};
  Status const status = indexer::encode_tensor_map(&args->query_map, p.q, queries, 4, op);
  if (!status.ok()) return status;
  return encode_pages(&args->key_map, p.index_cache, p.num_pages, p.page_stride_bytes, op);
}

// What both ragged calls share: all but the keys.
template <class Params>
Status fill_ragged(Params const& p, int64_t num_keys, indexer::RaggedPlan const& plan,
                   indexer::RaggedArgs* args, char const* op) {
  args->weights = p.weights;
  args->weights_row_stride = p.weights_row_stride;
  args->row_starts = p.row_starts;
  args->row_ends = p.row_ends;
  args->logits = p.logits;
  args->logits_row_stride = p.logits_row_stride;
  args->num_rows = static_cast<int32_t>(p.num_rows);
  args->num_keys = static_cast<int32_t>(num_keys);
  args->row_tiles = plan.row_tiles;
  args->key_tiles = plan.key_tiles;
  args->pieces = plan.pieces;
  indexer::TensorMapDim const queries[] = {
      {kHeadDim, 0, kHeadDim},
      {p.num_heads, p.q_head_stride, p.num_heads},
      {p.num_rows, p.q_row_stride, indexer::kRaggedColumns / p.num_heads}};
  return indexer::encode_tensor_map(&args->query_map, p.q, queries, 3, op);
}

}  // namespace

namespace indexer {
namespace {

Status launch_scoring(PagedIndexerLogitsParams const& p, int32_t unscored_length, bool fill,
                      cudaStream_t stream, char const* op) {
  Status status = check_arguments(p, op);
  if (!status.ok() || p.batch * p.next_n == 0 || p.max_context_len == 0) return status;
  PagedPlan plan;
  PagedArgs args;
  status = prepare_pages(p, unscored_length, &plan, &args, op);
  if (!status.ok()) return status;
  args.fill = fill;
  return launch_paged(args, p.num_heads, plan.tile_rows, {plan.grid, p.pdl, p.num_sms != 0},
                      stream);
}

}  // namespace

Status prepare_pages(PagedIndexerLogitsParams const& p, int32_t unscored_length, PagedPlan* plan,
                     PagedArgs* args, char const* op) noexcept {
  DeviceProperties device;
  Status status = current_device(&device, op);
  if (!status.ok()) return status;
  // A limit holds only where a multiprocessor has one block at a time.
  *plan = plan_paged(static_cast<int32_t>(p.batch), static_cast<int32_t>(p.next_n), p.num_heads,
                     static_cast<int32_t>(p.max_context_len), block_limit(device, p.num_sms),
                     p.num_sms != 0);
  *args = PagedArgs{};
  status = encode_maps(p, plan->tile_rows, args, op);
  if (!status.ok()) return status;

  args->index_cache = static_cast<uint8_t const*>(p.index_cache);
  args->page_stride_bytes = p.page_stride_bytes;
  args->num_pages = p.num_pages;
  args->weights = p.weights;
  args->weights_row_stride = p.weights_row_stride;
  args->lengths = row_lengths_of(p);
  args->block_table = p.block_table;
  args->block_table_stride = p.block_table_stride;
  args->logits = p.logits;
  args->logits_row_stride = p.logits_row_stride;
  args->tiles_per_request = plan->tiles_per_request;
  args->row_tiles = plan->row_tiles;
  args->max_context_len = static_cast<int32_t>(p.max_context_len);
  args->unscored_length = unscored_length;
  return Status{};
}

Status use_tiles_of_one_row(PagedIndexerLogitsParams const& p, PagedArgs* args,
                            char const* op) noexcept {
  args->tiles_per_request = static_cast<int32_t>(p.next_n);
  args->row_tiles = static_cast<int32_t>(p.batch * p.next_n);
  return encode_maps(p, 1, args, op);
}

Status score_rows(IndexerLogitsParams const& p, int32_t unscored_length, cudaStream_t stream,
                  char const* op) noexcept {
  Status status = check_arguments(p, op);
  if (!status.ok() || p.num_rows == 0 || p.num_keys == 0) return status;
  DeviceProperties device;
  status = current_device(&device, op);
  if (!status.ok()) return status;

  RaggedPlan const plan =
      plan_ragged(static_cast<int32_t>(p.num_rows), static_cast<int32_t>(p.num_keys), p.num_heads,
                  block_limit(device, p.num_sms));
  RaggedArgs args{};
  args.k_scale = p.k_scale;
  args.unscored_length = unscored_length;
  status = fill_ragged(p, p.num_keys, plan, &args, op);
  if (!status.ok()) return status;
  TensorMapDim const keys[] = {{kHeadDim, 0, kHeadDim}, {p.num_keys, p.k_stride, kStageKeys}};
  status = encode_tensor_map(&args.key_map, p.k, keys, 2, op);
  if (!status.ok()) return status;
  return launch_ragged(args, p.num_heads, p.clean, {plan.grid, p.pdl}, stream);
}

Status score_pages(PagedIndexerLogitsParams const& params, int32_t unscored_length,
                   cudaStream_t stream, char const* op) noexcept {
  return launch_scoring(params, unscored_length, false, stream, op);
}

}  // namespace indexer

inline namespace v0 {

Status indexer_logits(IndexerLogitsParams const& p, cudaStream_t stream) noexcept {
  return indexer::score_rows(p, 0, stream, "indexer_logits");
}

Status cached_indexer_logits(CachedIndexerLogitsParams const& p, cudaStream_t stream) noexcept {
  constexpr char const* kOp = "cached_indexer_logits";
  Status status = indexer::check_arguments(p, kOp);
  if (!status.ok() || p.num_rows == 0 || p.num_page_ids == 0) return status;
  DeviceProperties device;
  status = current_device(&device, kOp);
  if (!status.ok()) return status;

  int64_t const num_keys = p.num_page_ids * kPageKeys;
  indexer::RaggedPlan const plan =
      indexer::plan_ragged(static_cast<int32_t>(p.num_rows), static_cast<int32_t>(num_keys),
                           p.num_heads, block_limit(device, p.num_sms));
  indexer::CachedArgs args{};
  args.index_cache = static_cast<uint8_t const*>(p.index_cache);
  args.page_stride_bytes = p.page_stride_bytes;
  args.page_ids = p.page_ids;
  args.num_pages = static_cast<int32_t>(p.num_pages);
  status = fill_ragged(p, num_keys, plan, &args, kOp);
  if (!status.ok()) return status;
  status = encode_pages(&args.key_map, p.index_cache, p.num_pages, p.page_stride_bytes, kOp);
  if (!status.ok()) return status;
  return indexer::launch_cached(args, p.num_heads, p.clean, {plan.grid, p.pdl}, stream);
}

Status paged_indexer_logits(PagedIndexerLogitsParams const& p, cudaStream_t stream) noexcept {
  return indexer::launch_scoring(p, 0, true, stream, "paged_indexer_logits");
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
