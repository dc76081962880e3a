// Bindings of top-k, alone and chained with the indexer.
#include "dsa_ops/topk.h"

#include <algorithm>

#include "torch/arguments.h"

namespace dsa_ops::binding {
namespace {

// The part of the selection that does not depend on where the logits come from.
TopkParams selection_params(Tensor const& indices) {
  TopkParams params{};
  params.indices = mutable_data<int32_t>(indices);
  params.indices_row_stride = aligned_stride(indices, 0);
  params.num_rows = indices.size(0);
  params.top_k = static_cast<int32_t>(indices.size(1));
  return params;
}

void set_translation(TopkParams& params, Tensor const& block_table,
                     std::optional<Tensor> const& row_to_request) {
  params.to_slots = true;
  params.block_table = data<int32_t>(block_table);
  params.block_table_stride = aligned_stride(block_table, 0);
  params.num_requests = block_table.size(0);
  params.pages_per_request = block_table.size(1);
  params.row_to_request = data<int32_t>(row_to_request);
}

template <class Scoring>
void set_launch(Scoring& scoring, int64_t num_sms, bool pdl) {
  scoring.num_sms = sm_limit(num_sms);
  scoring.pdl = pdl;
}

void topk(Tensor const& logits, Tensor const& row_ends, std::optional<Tensor> const& row_starts,
          std::optional<Tensor> const& block_table, std::optional<Tensor> const& row_to_request,
          std::optional<Tensor> const& row_offsets, Tensor const& indices) {
  Checker const checker("topk");
  checker.dtype(logits, "logits", {ScalarType::Float, ScalarType::BFloat16});
  checker.shape(logits, "logits", {-1, -1}, "[T, N]");
  checker.last_dim_contiguous(logits, "logits");
  int64_t const rows = logits.size(0);
  check_plain(checker, row_ends, "row_ends", ScalarType::Int, {rows}, "[T]");
  if (row_starts) {
    check_plain(checker, *row_starts, "row_starts", ScalarType::Int, {rows}, "[T]");
  }
  check_translation(checker, rows, block_table, row_to_request);
  if (row_offsets) {
    check_plain(checker, *row_offsets, "row_offsets", ScalarType::Int, {rows}, "[T]");
  }
  check_indices(checker, indices, rows, "[T, top_k]");
  check_rows_per_request(checker, rows, block_table, row_to_request);
  check_top_k(checker, indices.size(1));
  checker.same_cuda_device({{"logits", &logits},
                            {"row_ends", &row_ends},
                            {"row_starts", get(row_starts)},
                            {"block_table", get(block_table)},
                            {"row_to_request", get(row_to_request)},
                            {"row_offsets", get(row_offsets)},
                            {"indices", &indices}});

  TopkParams params = selection_params(indices);
  params.logits = logits.const_data_ptr();
  params.logits_type =
      logits.scalar_type() == ScalarType::Float ? LogitsType::kFloat32 : LogitsType::kBfloat16;
  params.logits_row_stride = aligned_stride(logits, 0);
  params.num_columns = logits.size(1);
  params.row_starts = data<int32_t>(row_starts);
  params.row_ends = data<int32_t>(row_ends);
  params.row_offsets = data<int32_t>(row_offsets);
  if (block_table) set_translation(params, *block_table, row_to_request);
  torch::stable::accelerator::DeviceGuard const guard(logits.get_device_index());
  raise_if_failed(dsa_ops::topk(params, current_stream(logits)));
}

void indexer_topk(Tensor const& q, Tensor const& k, Tensor const& k_scale, Tensor const& weights,
                  Tensor const& row_starts, Tensor const& row_ends,
                  std::optional<Tensor> const& block_table,
                  std::optional<Tensor> const& row_to_request, int64_t num_sms, bool pdl,
                  Tensor const& indices) {
  Checker const checker("indexer_topk");
  check_ragged_scoring(checker, q, k, k_scale, weights, row_starts, row_ends);
  int64_t const rows = q.size(0);
  check_translation(checker, rows, block_table, row_to_request);
  check_indices(checker, indices, rows, "[T, top_k]");
  check_index_heads(checker, q.size(1));
  check_rows_per_request(checker, rows, block_table, row_to_request);
  check_top_k(checker, indices.size(1));
  check_num_sms(checker, num_sms);
  checker.same_cuda_device({{"q", &q},
                            {"k", &k},
                            {"k_scale", &k_scale},
                            {"weights", &weights},
                            {"row_starts", &row_starts},
                            {"row_ends", &row_ends},
                            {"block_table", get(block_table)},
                            {"row_to_request", get(row_to_request)},
                            {"indices", &indices}});

  IndexerTopkParams params{};
  params.scoring = ragged_scoring_params(q, k, k_scale, weights, row_starts, row_ends);
  set_launch(params.scoring, num_sms, pdl);
  params.selection = selection_params(indices);
  params.selection.row_starts = params.scoring.row_starts;
  params.selection.row_ends = params.scoring.row_ends;
  params.selection.num_columns = k.size(0);
  if (block_table) set_translation(params.selection, *block_table, row_to_request);
  torch::stable::accelerator::DeviceGuard const guard(q.get_device_index());
  params.workspace_bytes = indexer_topk_workspace_bytes(rows, k.size(0));
  Tensor const workspace = new_workspace(q, params.workspace_bytes);
  params.workspace = workspace.mutable_data_ptr();
  raise_if_failed(dsa_ops::indexer_topk(params, current_stream(q)));
}

void paged_indexer_topk(Tensor const& q, Tensor const& index_cache, Tensor const& weights,
                        Tensor const& context_lens, Tensor const& block_table,
                        int64_t max_context_len, bool return_slots, int64_t num_sms, bool pdl,
                        Tensor const& indices) {
  Checker const checker("paged_indexer_topk");
  check_paged_scoring(checker, q, index_cache, weights, context_lens, block_table);
  int64_t const rows = q.size(0) * q.size(1);
  check_indices(checker, indices, rows, "[B * next_n, top_k]");
  check_paged_counts(checker, q);
  if (max_context_len < 0) {
    checker.fail("max_context_len", "0 or more", std::to_string(max_context_len));
  }
  check_top_k(checker, indices.size(1));
  check_num_sms(checker, num_sms);
  checker.same_cuda_device({{"q", &q},
                            {"index_cache", &index_cache},
                            {"weights", &weights},
                            {"context_lens", &context_lens},
                            {"block_table", &block_table},
                            {"indices", &indices}});

  PagedIndexerTopkParams params{};
  params.scoring = paged_scoring_params(q, index_cache, weights, context_lens, block_table);
  // No row is longer than its pages: any larger bound asks for memory that nobody reads.
  int64_t const columns = std::min(max_context_len, block_table.size(1) * kIndexPageTokens);
  params.scoring.max_context_len = columns;
  set_launch(params.scoring, num_sms, pdl);
  params.selection = selection_params(indices);
  params.selection.num_columns = columns;
  if (return_slots) set_translation(params.selection, block_table, std::nullopt);
  torch::stable::accelerator::DeviceGuard const guard(q.get_device_index());
  params.workspace_bytes = paged_indexer_topk_workspace_bytes(rows, columns);
  Tensor const workspace = new_workspace(q, params.workspace_bytes);
  params.workspace = workspace.mutable_data_ptr();
  raise_if_failed(dsa_ops::paged_indexer_topk(params, current_stream(q)));
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dsa_ops, CUDA, library) {
  library.impl("topk", TORCH_BOX(&topk));
  library.impl("indexer_topk", TORCH_BOX(&indexer_topk));
  library.impl("paged_indexer_topk", TORCH_BOX(&paged_indexer_topk));
}

}  // namespace dsa_ops::binding
