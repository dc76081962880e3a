// Sparse multi-head latent attention: each row attends to the tokens its index list selects.
//
//   s[t, h, j] = sm_scale * q[t, h] . kv[indices[t, j]]        over 576 (or 512) dims
//   out[t, h]  = sum_j softmax_j(s)[t, h, j] * kv[indices[t, j], :512]
//   lse[t, h]  = log(sum_j exp(s[t, h, j]))                    natural logarithm
//
// Entries of `indices` outside [0, limit), where limit is num_keys or num_pages * page_size, and
// entries at and after topk_lens[t] are empty; duplicates count twice. A row with no key gives
// out = 0, lse = max_logits = -inf. attn_sink[h] scales out by exp(lse) / (exp(lse) + exp(sink))
// and leaves lse alone.
//
// Pointers are device pointers; 16-bit data is bf16. Strides are in elements unless the name says
// bytes; the last dimension is contiguous. Bases and strides of q, kv and out are multiples of 16
// B.
#pragma once
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "dsa_ops/status.h"

namespace dsa_ops {
inline namespace v0 {

inline constexpr int32_t kMaxAttentionHeads = 128;

struct SparseMlaPrefillParams {
  void const* q;  // bf16 [num_rows, num_heads, head_dim]
  int64_t q_row_stride, q_head_stride;
  void const* kv;  // bf16 [num_keys, head_dim]
  int64_t kv_row_stride;
  int32_t const* indices;  // [num_rows, top_k], rows of kv
  int64_t indices_row_stride;
  int32_t const* topk_lens;  // [num_rows], nullable
  float const* attn_sink;    // [num_heads], nullable
  void* out;                 // bf16 [num_rows, num_heads, 512]
  int64_t out_row_stride, out_head_stride;
  float* lse;         // [num_rows, num_heads] contiguous
  float* max_logits;  // [num_rows, num_heads] contiguous
  int64_t num_rows;
  int64_t num_keys;
  int64_t top_k;
  int32_t num_heads;  // 1 ... 128
  int32_t head_dim;   // 576 or 512
  float sm_scale;
  void* workspace;  // 256-byte aligned; may be null when the size query gives 0
  size_t workspace_bytes;
};
// Scratch for the unions of neighbouring rows' index lists, which rows of up to 32 heads attend
// over together where they have much in common; on a device with `num_sms` multiprocessors.
DSA_OPS_API size_t sparse_mla_prefill_workspace_bytes(int64_t num_rows, int32_t num_heads,
                                                      int64_t top_k, int32_t num_sms) noexcept;
DSA_OPS_API Status sparse_mla_prefill(SparseMlaPrefillParams const& params,
                                      cudaStream_t stream) noexcept;

enum class MlaCacheFormat : int32_t {
  kFp8 = 0,   // 656 bytes a token: 512 e4m3, 4 float scales, 64 bf16
  kBf16 = 1,  // 576 bf16 a token
};

struct SparseMlaDecodeParams {
  void const* q;  // bf16 [num_rows, num_heads, 576]
  int64_t q_row_stride, q_head_stride;
  void const* kv_cache;  // [num_pages, page_size, token], tokens packed
  int64_t page_stride_bytes;
  int64_t num_pages;
  int64_t page_size;
  int32_t const* indices;  // [num_rows, top_k], slots
  int64_t indices_row_stride;
  int32_t const* topk_lens;  // [num_rows], nullable
  float const* attn_sink;    // [num_heads], nullable
  void* out;                 // bf16 [num_rows, num_heads, 512]
  int64_t out_row_stride, out_head_stride;
  float* lse;  // [num_rows, num_heads] contiguous
  int64_t num_rows;
  int64_t top_k;
  int32_t num_heads;  // 1 ... 128
  MlaCacheFormat cache_format;
  float sm_scale;
  void* workspace;  // 256-byte aligned; may be null when the size query gives 0
  size_t workspace_bytes;
};
// Scratch for the partial results of a split launch on a device with `num_sms` multiprocessors,
// enough for either cache format. None once the rows fill the device.
DSA_OPS_API size_t sparse_mla_decode_workspace_bytes(int64_t num_rows, int32_t num_heads,
                                                     int64_t top_k, int32_t num_sms) noexcept;
DSA_OPS_API Status sparse_mla_decode(SparseMlaDecodeParams const& params,
                                     cudaStream_t stream) noexcept;

}  // namespace v0
}  // namespace dsa_ops
