// Bindings of sparse multi-head latent attention.
#include "dsa_ops/sparse_mla.h"

#include <atomic>

#include "torch/arguments.h"

namespace dsa_ops::binding {
namespace {

void check_selection(Checker const& checker, Tensor const& q, Tensor const& indices,
                     std::optional<Tensor> const& topk_lens,
                     std::optional<Tensor> const& attn_sink) {
  check_plain(checker, indices, "indices", ScalarType::Int, {q.size(0), -1}, "[T, k]");
  if (topk_lens) {
    check_plain(checker, *topk_lens, "topk_lens", ScalarType::Int, {q.size(0)}, "[T]");
  }
  if (attn_sink) {
    check_plain(checker, *attn_sink, "attn_sink", ScalarType::Float, {q.size(1)}, "[H]");
  }
}

void check_out(Checker const& checker, Tensor const& q, Tensor const& out) {
  check_aligned(checker, out, "out", ScalarType::BFloat16, {q.size(0), q.size(1), kMlaLatentDim},
                "[T, H, 512]");
}

void check_per_head(Checker const& checker, Tensor const& q, Tensor const& tensor,
                    char const* argument) {
  check_plain(checker, tensor, argument, ScalarType::Float, {q.size(0), q.size(1)}, "[T, H]");
  if (tensor.is_contiguous()) return;
  checker.fail(argument, "contiguous",
               "strides [" + std::to_string(tensor.stride(0)) + ", " +
                   std::to_string(tensor.stride(1)) + "]");
}

void check_counts(Checker const& checker, Tensor const& q, Tensor const& indices) {
  check_attention_heads(checker, q.size(1));
  if (indices.size(1) >= 1) return;
  checker.fail("indices", "of 1 or more columns", std::to_string(indices.size(1)));
}

int32_t multiprocessor_count(char const* op, int32_t device) {
  static std::atomic<int32_t> counts[64];
  bool const cached = device >= 0 && device < 64;
  int32_t count = cached ? counts[device].load(std::memory_order_relaxed) : 0;
  if (count != 0) return count;
  cudaError_t const error = cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device);
  if (error != cudaSuccess) {
    throw std::runtime_error(std::string(op) + ": CUDA error " + cudaGetErrorString(error));
  }
  if (cached) counts[device].store(count, std::memory_order_relaxed);
  return count;
}

// The parameters that prefill and decode share. The caller adds its keys.
template <class Params>
Params common_params(Tensor const& q, Tensor const& indices, double sm_scale,
                     std::optional<Tensor> const& topk_lens, std::optional<Tensor> const& attn_sink,
                     Tensor const& out, Tensor const& lse) {
  Params params{};
  params.q = q.const_data_ptr();
  params.q_row_stride = aligned_stride(q, 0);
  params.q_head_stride = aligned_stride(q, 1);
  params.indices = data<int32_t>(indices);
  params.indices_row_stride = aligned_stride(indices, 0);
  params.topk_lens = data<int32_t>(topk_lens);
  params.attn_sink = data<float>(attn_sink);
  params.out = out.mutable_data_ptr();
  params.out_row_stride = aligned_stride(out, 0);
  params.out_head_stride = aligned_stride(out, 1);
  params.lse = mutable_data<float>(lse);
  params.num_rows = q.size(0);
  params.top_k = indices.size(1);
  params.num_heads = static_cast<int32_t>(q.size(1));
  params.sm_scale = static_cast<float>(sm_scale);
  return params;
}

// Launches the op on the current stream of q's device with the scratch it asks for.
template <class Params>
void launch(char const* op, Tensor const& q, Params params,
            size_t (*workspace_bytes)(int64_t, int32_t, int64_t, int32_t) noexcept,
            Status (*run)(Params const&, cudaStream_t) noexcept) {
  torch::stable::accelerator::DeviceGuard const guard(q.get_device_index());
  params.workspace_bytes = workspace_bytes(params.num_rows, params.num_heads, params.top_k,
                                           multiprocessor_count(op, q.get_device_index()));
  std::optional<Tensor> workspace;
  if (params.workspace_bytes > 0) {
    workspace = new_workspace(q, params.workspace_bytes);
    params.workspace = workspace->mutable_data_ptr();
  }
  raise_if_failed(run(params, current_stream(q)));
}

void sparse_mla_prefill(Tensor const& q, Tensor const& kv, Tensor const& indices, double sm_scale,
                        std::optional<Tensor> const& topk_lens,
                        std::optional<Tensor> const& attn_sink, Tensor const& out,
                        Tensor const& lse, Tensor const& max_logits) {
  Checker const checker("sparse_mla_prefill");
  bool const latent_only = q.dim() > 0 && q.size(q.dim() - 1) == kMlaLatentDim;
  int64_t const head_dim = latent_only ? kMlaLatentDim : kMlaHeadDim;
  check_aligned(checker, q, "q", ScalarType::BFloat16, {-1, -1, head_dim},
                "[T, H, 576] or [T, H, 512]");
  check_aligned(checker, kv, "kv", ScalarType::BFloat16, {-1, head_dim},
                "[N, 576] or [N, 512], as wide as q");
  check_selection(checker, q, indices, topk_lens, attn_sink);
  check_out(checker, q, out);
  check_per_head(checker, q, lse, "lse");
  check_per_head(checker, q, max_logits, "max_logits");
  check_counts(checker, q, indices);
  checker.same_cuda_device({{"q", &q},
                            {"kv", &kv},
                            {"indices", &indices},
                            {"topk_lens", get(topk_lens)},
                            {"attn_sink", get(attn_sink)},
                            {"out", &out},
                            {"lse", &lse},
                            {"max_logits", &max_logits}});

  auto params =
      common_params<SparseMlaPrefillParams>(q, indices, sm_scale, topk_lens, attn_sink, out, lse);
  params.kv = kv.const_data_ptr();
  params.kv_row_stride = aligned_stride(kv, 0);
  params.max_logits = mutable_data<float>(max_logits);
  params.num_keys = kv.size(0);
  params.head_dim = static_cast<int32_t>(head_dim);
  launch("sparse_mla_prefill", q, params, &sparse_mla_prefill_workspace_bytes,
         &dsa_ops::sparse_mla_prefill);
}

void sparse_mla_decode(Tensor const& q, Tensor const& kv_cache, Tensor const& indices,
                       double sm_scale, std::optional<Tensor> const& topk_lens,
                       std::optional<Tensor> const& attn_sink, Tensor const& out,
                       Tensor const& lse) {
  Checker const checker("sparse_mla_decode");
  check_aligned(checker, q, "q", ScalarType::BFloat16, {-1, -1, kMlaHeadDim}, "[T, H, 576]");
  PagedCache const cache = check_attention_cache(checker, kv_cache, "kv_cache");
  check_selection(checker, q, indices, topk_lens, attn_sink);
  check_out(checker, q, out);
  check_per_head(checker, q, lse, "lse");
  check_counts(checker, q, indices);
  checker.same_cuda_device({{"q", &q},
                            {"kv_cache", &kv_cache},
                            {"indices", &indices},
                            {"topk_lens", get(topk_lens)},
                            {"attn_sink", get(attn_sink)},
                            {"out", &out},
                            {"lse", &lse}});

  auto params =
      common_params<SparseMlaDecodeParams>(q, indices, sm_scale, topk_lens, attn_sink, out, lse);
  params.kv_cache = kv_cache.const_data_ptr();
  params.page_stride_bytes = cache.page_stride_bytes;
  params.num_pages = cache.num_pages;
  params.page_size = cache.page_size;
  params.cache_format =
      kv_cache.scalar_type() == ScalarType::BFloat16 ? MlaCacheFormat::kBf16 : MlaCacheFormat::kFp8;
  launch("sparse_mla_decode", q, params, &sparse_mla_decode_workspace_bytes,
         &dsa_ops::sparse_mla_decode);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dsa_ops, CUDA, library) {
  library.impl("sparse_mla_prefill", TORCH_BOX(&sparse_mla_prefill));
  library.impl("sparse_mla_decode", TORCH_BOX(&sparse_mla_decode));
}

}  // namespace dsa_ops::binding
