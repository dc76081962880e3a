// Bindings of the preparation of index queries and keys.
#include "dsa_ops/caches.h"
#include "torch/cache_arguments.h"
#include "torch/common.h"

namespace dsa_ops::binding {
namespace {

using torch::stable::accelerator::DeviceGuard;

void check_rope(Checker const& check, Tensor const& positions, Tensor const& cos_sin_cache,
                int64_t size, char const* text) {
  check_vector(check, positions, "positions", ScalarType::Long, size, text);
  check.dtype(cos_sin_cache, "cos_sin_cache", {ScalarType::Float});
  check.shape(cos_sin_cache, "cos_sin_cache", {-1, 64}, "[num_positions, 64]");
  check.last_dim_contiguous(cos_sin_cache, "cos_sin_cache");
  if (cos_sin_cache.size(0) < 1) {
    check.fail("cos_sin_cache", "of at least one row", std::to_string(cos_sin_cache.size(0)));
  }
}

void check_head_vectors(Checker const& check, Tensor const& tensor, char const* argument,
                        int64_t rows, int64_t heads) {
  check.shape(tensor, argument, {rows, heads, kIndexHeadDim}, "[num_rows, num_heads, 128]");
  check.last_dim_contiguous(tensor, argument);
  check.aligned_16(tensor, argument);
}

void check_weights(Checker const& check, Tensor const& tensor, char const* argument, int64_t rows,
                   int64_t heads) {
  check.dtype(tensor, argument, {ScalarType::Float});
  check.shape(tensor, argument, {rows, heads}, "[num_rows, num_heads]");
  check.last_dim_contiguous(tensor, argument);
}

void check_norm(Checker const& check, Tensor const* weight, Tensor const* bias) {
  if (weight) {
    check_vector(check, *weight, "norm_weight", ScalarType::Float, kIndexHeadDim, "[128]");
  }
  if (bias) check_vector(check, *bias, "norm_bias", ScalarType::Float, kIndexHeadDim, "[128]");
  if ((weight == nullptr) != (bias == nullptr)) {
    check.fail("norm_bias", "given together with norm_weight", "only one of them");
  }
}

void prepare_index_q(Tensor const& q, Tensor const& positions, Tensor const& cos_sin_cache,
                     Tensor const& weights, double softmax_scale, bool interleaved, bool hadamard,
                     bool ue8m0, Tensor const& q_out, Tensor const& weights_out) {
  Checker const check("prepare_index_q");
  check.dtype(q, "q", {ScalarType::BFloat16});
  check_head_vectors(check, q, "q", -1, -1);
  int64_t const rows = q.size(0);
  int64_t const heads = q.size(1);
  check_rope(check, positions, cos_sin_cache, rows, "[num_rows]");
  check_weights(check, weights, "weights", rows, heads);
  check.dtype(q_out, "q_out", {ScalarType::Float8_e4m3fn});
  check_head_vectors(check, q_out, "q_out", rows, heads);
  check_weights(check, weights_out, "weights_out", rows, heads);
  if (heads != 8 && heads != 16 && heads != 32 && heads != 64) {
    check.fail("q", "of 8 or 16 or 32 or 64 heads", std::to_string(heads));
  }
  check.same_cuda_device({{"q", &q},
                          {"positions", &positions},
                          {"cos_sin_cache", &cos_sin_cache},
                          {"weights", &weights},
                          {"q_out", &q_out},
                          {"weights_out", &weights_out}});

  PrepareIndexQParams params{};
  params.q = q.const_data_ptr();
  params.q_row_stride = stride_of(q, 0);
  params.q_head_stride = stride_of(q, 1);
  params.positions = data<int64_t>(positions);
  params.cos_sin_cache = data<float>(cos_sin_cache);
  params.cos_sin_stride = stride_of(cos_sin_cache, 0);
  params.num_positions = cos_sin_cache.size(0);
  params.weights = data<float>(weights);
  params.weights_row_stride = stride_of(weights, 0);
  params.softmax_scale = static_cast<float>(softmax_scale);
  params.interleaved = interleaved;
  params.hadamard = hadamard;
  params.ue8m0 = ue8m0;
  params.q_out = q_out.mutable_data_ptr();
  params.q_out_row_stride = stride_of(q_out, 0);
  params.q_out_head_stride = stride_of(q_out, 1);
  params.weights_out = mutable_data<float>(weights_out);
  params.weights_out_row_stride = stride_of(weights_out, 0);
  params.num_rows = rows;
  params.num_heads = static_cast<int32_t>(heads);
  DeviceGuard const guard(q.get_device_index());
  raise_if_failed(dsa_ops::prepare_index_q(params, current_stream(q)));
}

void prepare_index_k(Tensor const& k, std::optional<Tensor> const& norm_weight,
                     std::optional<Tensor> const& norm_bias, double eps, Tensor const& positions,
                     Tensor const& cos_sin_cache, bool interleaved, bool hadamard, bool ue8m0,
                     Tensor const& index_cache, Tensor const& slot_mapping) {
  Checker const check("prepare_index_k");
  check.dtype(k, "k", {ScalarType::BFloat16});
  check_rows(check, k, "k", -1, kIndexHeadDim, "[num_tokens, 128]");
  check_norm(check, get(norm_weight), get(norm_bias));
  check_rope(check, positions, cos_sin_cache, k.size(0), "[num_tokens]");
  PagedCache const cache = check_index_cache(check, index_cache, "index_cache");
  check_vector(check, slot_mapping, "slot_mapping", ScalarType::Long, k.size(0), "[num_tokens]");
  check.same_cuda_device({{"k", &k},
                          {"norm_weight", get(norm_weight)},
                          {"norm_bias", get(norm_bias)},
                          {"positions", &positions},
                          {"cos_sin_cache", &cos_sin_cache},
                          {"index_cache", &index_cache},
                          {"slot_mapping", &slot_mapping}});

  PrepareIndexKParams params{};
  params.k = k.const_data_ptr();
  params.k_stride = stride_of(k, 0);
  params.norm_weight = data<float>(norm_weight);
  params.norm_bias = data<float>(norm_bias);
  params.eps = static_cast<float>(eps);
  params.positions = data<int64_t>(positions);
  params.cos_sin_cache = data<float>(cos_sin_cache);
  params.cos_sin_stride = stride_of(cos_sin_cache, 0);
  params.num_positions = cos_sin_cache.size(0);
  params.interleaved = interleaved;
  params.hadamard = hadamard;
  params.ue8m0 = ue8m0;
  params.index_cache = index_cache.mutable_data_ptr();
  params.page_stride_bytes = cache.page_stride_bytes;
  params.num_pages = cache.num_pages;
  params.slot_mapping = data<int64_t>(slot_mapping);
  params.num_tokens = k.size(0);
  DeviceGuard const guard(k.get_device_index());
  raise_if_failed(dsa_ops::prepare_index_k(params, current_stream(k)));
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dsa_ops, CUDA, m) {
  m.impl("prepare_index_q", TORCH_BOX(&prepare_index_q));
  m.impl("prepare_index_k", TORCH_BOX(&prepare_index_k));
}

}  // namespace dsa_ops::binding
