// Bindings of the indexer's logits.
#include "dsa_ops/indexer.h"

#include "torch/arguments.h"

namespace dsa_ops::binding {
namespace {

// The output, and how the call is launched.
template <class Params>
void set_call(Params* params, int64_t num_sms, bool pdl, Tensor const& logits) {
  params->logits = mutable_data<float>(logits);
  params->logits_row_stride = aligned_stride(logits, 0);
  params->num_sms = sm_limit(num_sms);
  params->pdl = pdl;
}

void indexer_logits(Tensor const& q, Tensor const& k, Tensor const& k_scale, Tensor const& weights,
                    Tensor const& row_starts, Tensor const& row_ends, bool clean, int64_t num_sms,
                    bool pdl, Tensor const& logits) {
  Checker const checker("indexer_logits");
  check_ragged_scoring(checker, q, k, k_scale, weights, row_starts, row_ends);
  check_plain(checker, logits, "logits", ScalarType::Float, {q.size(0), k.size(0)}, "[T, N]");
  check_index_heads(checker, q.size(1));
  check_num_sms(checker, num_sms);
  checker.same_cuda_device({{"q", &q},
                            {"k", &k},
                            {"k_scale", &k_scale},
                            {"weights", &weights},
                            {"row_starts", &row_starts},
                            {"row_ends", &row_ends},
                            {"logits", &logits}});

  IndexerLogitsParams params = ragged_scoring_params(q, k, k_scale, weights, row_starts, row_ends);
  params.clean = clean;
  set_call(&params, num_sms, pdl, logits);
  torch::stable::accelerator::DeviceGuard const guard(q.get_device_index());
  raise_if_failed(dsa_ops::indexer_logits(params, current_stream(q)));
}

void cached_indexer_logits(Tensor const& q, Tensor const& index_cache, Tensor const& page_ids,
                           Tensor const& weights, Tensor const& row_starts, Tensor const& row_ends,
                           bool clean, int64_t num_sms, bool pdl, Tensor const& logits) {
  Checker const checker("cached_indexer_logits");
  check_cached_scoring(checker, q, index_cache, page_ids, weights, row_starts, row_ends);
  check_plain(checker, logits, "logits", ScalarType::Float,
              {q.size(0), page_ids.size(0) * kIndexPageTokens}, "[T, 64 P]");
  check_index_heads(checker, q.size(1));
  check_num_sms(checker, num_sms);
  checker.same_cuda_device({{"q", &q},
                            {"index_cache", &index_cache},
                            {"page_ids", &page_ids},
                            {"weights", &weights},
                            {"row_starts", &row_starts},
                            {"row_ends", &row_ends},
                            {"logits", &logits}});

  CachedIndexerLogitsParams params =
      cached_scoring_params(q, index_cache, page_ids, weights, row_starts, row_ends);
  params.clean = clean;
  set_call(&params, num_sms, pdl, logits);
  torch::stable::accelerator::DeviceGuard const guard(q.get_device_index());
  raise_if_failed(dsa_ops::cached_indexer_logits(params, current_stream(q)));
}

void paged_indexer_logits(Tensor const& q, Tensor const& index_cache, Tensor const& weights,
                          Tensor const& context_lens, Tensor const& block_table, int64_t num_sms,
                          bool pdl, Tensor const& logits) {
  Checker const checker("paged_indexer_logits");
  check_paged_scoring(checker, q, index_cache, weights, context_lens, block_table);
  check_plain(checker, logits, "logits", ScalarType::Float, {q.size(0) * q.size(1), -1},
              "[B * next_n, max_context_len]");
  check_paged_counts(checker, q);
  check_num_sms(checker, num_sms);
  checker.same_cuda_device({{"q", &q},
                            {"index_cache", &index_cache},
                            {"weights", &weights},
                            {"context_lens", &context_lens},
                            {"block_table", &block_table},
                            {"logits", &logits}});

  PagedIndexerLogitsParams params =
      paged_scoring_params(q, index_cache, weights, context_lens, block_table);
  params.max_context_len = logits.size(1);
  set_call(&params, num_sms, pdl, logits);
  torch::stable::accelerator::DeviceGuard const guard(q.get_device_index());
  raise_if_failed(dsa_ops::paged_indexer_logits(params, current_stream(q)));
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dsa_ops, CUDA, library) {
  library.impl("indexer_logits", TORCH_BOX(&indexer_logits));
  library.impl("cached_indexer_logits", TORCH_BOX(&cached_indexer_logits));
  library.impl("paged_indexer_logits", TORCH_BOX(&paged_indexer_logits));
}

}  // namespace dsa_ops::binding
