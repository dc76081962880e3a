// Binding of the union of two partial attentions.
#include "dsa_ops/caches.h"
#include "torch/cache_arguments.h"
#include "torch/common.h"

namespace dsa_ops::binding {
namespace {

using torch::stable::accelerator::DeviceGuard;

void check_part(Checker const& check, Tensor const& out, char const* out_name, Tensor const& lse,
                char const* lse_name, int64_t rows, int64_t heads, int64_t head_dim) {
  check.dtype(out, out_name, {ScalarType::BFloat16});
  check.shape(out, out_name, {rows, heads, head_dim}, "[num_rows, num_heads, head_dim]");
  check.last_dim_contiguous(out, out_name);
  check.aligned_16(out, out_name);
  check.dtype(lse, lse_name, {ScalarType::Float});
  check.shape(lse, lse_name, {out.size(0), out.size(1)}, "[num_rows, num_heads]");
  check.last_dim_contiguous(lse, lse_name);
}

void merge_states(Tensor const& out_a, Tensor const& lse_a, Tensor const& out_b,
                  Tensor const& lse_b, Tensor const& out, Tensor const& lse) {
  Checker const check("merge_states");
  check_part(check, out_a, "out_a", lse_a, "lse_a", -1, -1, -1);
  int64_t const rows = out_a.size(0);
  int64_t const heads = out_a.size(1);
  int64_t const head_dim = out_a.size(2);
  check_part(check, out_b, "out_b", lse_b, "lse_b", rows, heads, head_dim);
  check_part(check, out, "out", lse, "lse", rows, heads, head_dim);
  if (head_dim % 8 != 0) {
    check.fail("out_a", "of a head_dim divisible by 8", std::to_string(head_dim));
  }
  check.same_cuda_device({{"out_a", &out_a},
                          {"lse_a", &lse_a},
                          {"out_b", &out_b},
                          {"lse_b", &lse_b},
                          {"out", &out},
                          {"lse", &lse}});

  MergeStatesParams params{};
  params.out_a = out_a.const_data_ptr();
  params.out_a_row_stride = stride_of(out_a, 0);
  params.out_a_head_stride = stride_of(out_a, 1);
  params.lse_a = data<float>(lse_a);
  params.lse_a_row_stride = stride_of(lse_a, 0);
  params.out_b = out_b.const_data_ptr();
  params.out_b_row_stride = stride_of(out_b, 0);
  params.out_b_head_stride = stride_of(out_b, 1);
  params.lse_b = data<float>(lse_b);
  params.lse_b_row_stride = stride_of(lse_b, 0);
  params.out = out.mutable_data_ptr();
  params.out_row_stride = stride_of(out, 0);
  params.out_head_stride = stride_of(out, 1);
  params.lse = mutable_data<float>(lse);
  params.lse_row_stride = stride_of(lse, 0);
  params.num_rows = rows;
  params.num_heads = static_cast<int32_t>(heads);
  params.head_dim = static_cast<int32_t>(head_dim);
  DeviceGuard const guard(out_a.get_device_index());
  raise_if_failed(dsa_ops::merge_states(params, current_stream(out_a)));
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dsa_ops, CUDA, m) { m.impl("merge_states", TORCH_BOX(&merge_states)); }

}  // namespace dsa_ops::binding
