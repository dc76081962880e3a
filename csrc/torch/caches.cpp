// Bindings of the writes to and gathers from the two paged caches.
#include "dsa_ops/caches.h"

#include "torch/cache_arguments.h"
#include "torch/common.h"

namespace dsa_ops::binding {
namespace {

using torch::stable::accelerator::DeviceGuard;

void write_index_cache(Tensor const& k, Tensor const& index_cache, Tensor const& slot_mapping,
                       bool ue8m0) {
  Checker const check("write_index_cache");
  check.dtype(k, "k", {ScalarType::BFloat16});
  check_rows(check, k, "k", -1, kIndexHeadDim, "[num_tokens, 128]");
  PagedCache const cache = check_index_cache(check, index_cache, "index_cache");
  check_vector(check, slot_mapping, "slot_mapping", ScalarType::Long, k.size(0), "[num_tokens]");
  check.same_cuda_device(
      {{"k", &k}, {"index_cache", &index_cache}, {"slot_mapping", &slot_mapping}});

  WriteIndexCacheParams params{};
  params.k = k.const_data_ptr();
  params.k_stride = stride_of(k, 0);
  params.index_cache = index_cache.mutable_data_ptr();
  params.page_stride_bytes = cache.page_stride_bytes;
  params.num_pages = cache.num_pages;
  params.slot_mapping = data<int64_t>(slot_mapping);
  params.num_tokens = k.size(0);
  params.ue8m0 = ue8m0;
  DeviceGuard const guard(k.get_device_index());
  raise_if_failed(dsa_ops::write_index_cache(params, current_stream(k)));
}

void gather_index_cache(Tensor const& index_cache, Tensor const& block_table,
                        Tensor const& cu_seq_lens, Tensor const& k, Tensor const& k_scale) {
  Checker const check("gather_index_cache");
  PagedCache const cache = check_index_cache(check, index_cache, "index_cache");
  check_requests(check, block_table, cu_seq_lens);
  check.dtype(k, "k", {ScalarType::Float8_e4m3fn});
  check_rows(check, k, "k", -1, kIndexHeadDim, "[num_tokens, 128]");
  check_vector(check, k_scale, "k_scale", ScalarType::Float, k.size(0), "[num_tokens]");
  check.same_cuda_device({{"index_cache", &index_cache},
                          {"block_table", &block_table},
                          {"cu_seq_lens", &cu_seq_lens},
                          {"k", &k},
                          {"k_scale", &k_scale}});

  GatherIndexCacheParams params{};
  params.index_cache = index_cache.const_data_ptr();
  params.page_stride_bytes = cache.page_stride_bytes;
  params.num_pages = cache.num_pages;
  params.block_table = data<int32_t>(block_table);
  params.block_table_stride = stride_of(block_table, 0);
  params.num_requests = block_table.size(0);
  params.pages_per_request = block_table.size(1);
  params.cu_seq_lens = data<int32_t>(cu_seq_lens);
  params.k = k.mutable_data_ptr();
  params.k_stride = stride_of(k, 0);
  params.k_scale = mutable_data<float>(k_scale);
  params.num_tokens = k.size(0);
  DeviceGuard const guard(k.get_device_index());
  raise_if_failed(dsa_ops::gather_index_cache(params, current_stream(k)));
}

void write_mla_cache(Tensor const& kv_latent, Tensor const& k_rope, Tensor const& mla_cache,
                     Tensor const& slot_mapping) {
  Checker const check("write_mla_cache");
  check.dtype(kv_latent, "kv_latent", {ScalarType::BFloat16});
  check_rows(check, kv_latent, "kv_latent", -1, kMlaLatentDim, "[num_tokens, 512]");
  check.dtype(k_rope, "k_rope", {ScalarType::BFloat16});
  check_rows(check, k_rope, "k_rope", kv_latent.size(0), kMlaRopeDim, "[num_tokens, 64]");
  PagedCache const cache = check_mla_cache(check, mla_cache, "mla_cache");
  check_vector(check, slot_mapping, "slot_mapping", ScalarType::Long, kv_latent.size(0),
               "[num_tokens]");
  check.same_cuda_device({{"kv_latent", &kv_latent},
                          {"k_rope", &k_rope},
                          {"mla_cache", &mla_cache},
                          {"slot_mapping", &slot_mapping}});

  WriteMlaCacheParams params{};
  params.kv_latent = kv_latent.const_data_ptr();
  params.kv_latent_stride = stride_of(kv_latent, 0);
  params.k_rope = k_rope.const_data_ptr();
  params.k_rope_stride = stride_of(k_rope, 0);
  params.mla_cache = mla_cache.mutable_data_ptr();
  params.page_stride_bytes = cache.page_stride_bytes;
  params.num_pages = cache.num_pages;
  params.page_size = cache.page_size;
  params.slot_mapping = data<int64_t>(slot_mapping);
  params.num_tokens = kv_latent.size(0);
  DeviceGuard const guard(kv_latent.get_device_index());
  raise_if_failed(dsa_ops::write_mla_cache(params, current_stream(kv_latent)));
}

void gather_mla_cache(Tensor const& mla_cache, Tensor const& block_table, Tensor const& cu_seq_lens,
                      Tensor const& kv) {
  Checker const check("gather_mla_cache");
  PagedCache const cache = check_mla_cache(check, mla_cache, "mla_cache");
  check_requests(check, block_table, cu_seq_lens);
  check.dtype(kv, "kv", {ScalarType::BFloat16});
  check_rows(check, kv, "kv", -1, kMlaHeadDim, "[num_tokens, 576]");
  check.same_cuda_device({{"mla_cache", &mla_cache},
                          {"block_table", &block_table},
                          {"cu_seq_lens", &cu_seq_lens},
                          {"kv", &kv}});

  GatherMlaCacheParams params{};
  params.mla_cache = mla_cache.const_data_ptr();
  params.page_stride_bytes = cache.page_stride_bytes;
  params.num_pages = cache.num_pages;
  params.page_size = cache.page_size;
  params.block_table = data<int32_t>(block_table);
  params.block_table_stride = stride_of(block_table, 0);
  params.num_requests = block_table.size(0);
  params.pages_per_request = block_table.size(1);
  params.cu_seq_lens = data<int32_t>(cu_seq_lens);
  params.kv = kv.mutable_data_ptr();
  params.kv_stride = stride_of(kv, 0);
  params.num_tokens = kv.size(0);
  DeviceGuard const guard(kv.get_device_index());
  raise_if_failed(dsa_ops::gather_mla_cache(params, current_stream(kv)));
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dsa_ops, CUDA, m) {
  m.impl("write_index_cache", TORCH_BOX(&write_index_cache));
  m.impl("gather_index_cache", TORCH_BOX(&gather_index_cache));
  m.impl("write_mla_cache", TORCH_BOX(&write_mla_cache));
  m.impl("gather_mla_cache", TORCH_BOX(&gather_mla_cache));
}

}  // namespace dsa_ops::binding
