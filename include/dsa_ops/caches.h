// Writes to and gathers from the two paged caches of DeepSeek Sparse Attention, the preparation of
// the indexer's queries and keys, and the merge of partial attentions.
//
// Index cache page: uint8[64, 132] = 64 keys of 128 e4m3 values, then 64 fp32 scales (8,448 B).
// MLA cache token: 656 B = 512 e4m3 latent values, 4 fp32 scales (one per 128), 64 bf16 RoPE
// values.
//
// Pointers are device pointers; `void` pointers to 16-bit data hold bf16, to 8-bit data e4m3.
// Strides are in elements unless the name says bytes; the last dimension is contiguous.
// A slot is page * page_size + offset. A slot or page outside the cache is skipped on writes and
// reads as zeros in gathers; it is never dereferenced.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

#include "dsa_ops/status.h"

namespace dsa_ops {
inline namespace v0 {

inline constexpr int64_t kIndexPageTokens = 64;
inline constexpr int64_t kIndexHeadDim = 128;
inline constexpr int64_t kIndexTokenBytes = 132;
inline constexpr int64_t kIndexPageBytes = kIndexPageTokens * kIndexTokenBytes;
inline constexpr int64_t kMlaLatentDim = 512;
inline constexpr int64_t kMlaRopeDim = 64;
inline constexpr int64_t kMlaHeadDim = kMlaLatentDim + kMlaRopeDim;
inline constexpr int64_t kMlaTokenBytes = 656;

// Quantises k with one scale per token, s = max(amax, 1e-4) / 448 (rounded up to a power of two
// when ue8m0), and scatters keys and scales to their slots.
struct WriteIndexCacheParams {
  void const* k;  // bf16 [num_tokens, 128]
  int64_t k_stride;
  void* index_cache;  // uint8 [num_pages, 64, 132]
  int64_t page_stride_bytes;
  int64_t num_pages;
  int64_t const* slot_mapping;  // [num_tokens], negative = skip
  int64_t num_tokens;
  bool ue8m0;
};
DSA_OPS_API Status write_index_cache(WriteIndexCacheParams const& params,
                                     cudaStream_t stream) noexcept;

// Collects the keys of request b into rows [cu_seq_lens[b], cu_seq_lens[b + 1]). Rows that belong
// to no request stay as they are.
struct GatherIndexCacheParams {
  void const* index_cache;  // uint8 [num_pages, 64, 132]
  int64_t page_stride_bytes;
  int64_t num_pages;
  int32_t const* block_table;  // [num_requests, pages_per_request]
  int64_t block_table_stride;
  int64_t num_requests;
  int64_t pages_per_request;
  int32_t const* cu_seq_lens;  // [num_requests + 1]
  void* k;                     // e4m3 [num_tokens, 128]
  int64_t k_stride;
  float* k_scale;  // [num_tokens]
  int64_t num_tokens;
};
DSA_OPS_API Status gather_index_cache(GatherIndexCacheParams const& params,
                                      cudaStream_t stream) noexcept;

// Quantises the latent with s = max(amax / 448, FLT_MIN) per 128 values and scatters whole tokens.
struct WriteMlaCacheParams {
  void const* kv_latent;  // bf16 [num_tokens, 512]
  int64_t kv_latent_stride;
  void const* k_rope;  // bf16 [num_tokens, 64]
  int64_t k_rope_stride;
  void* mla_cache;  // uint8 [num_pages, page_size, 656]
  int64_t page_stride_bytes;
  int64_t num_pages;
  int64_t page_size;
  int64_t const* slot_mapping;  // [num_tokens], negative = skip
  int64_t num_tokens;
};
DSA_OPS_API Status write_mla_cache(WriteMlaCacheParams const& params, cudaStream_t stream) noexcept;

// Collects and dequantises the tokens of request b into rows [cu_seq_lens[b], cu_seq_lens[b + 1]).
// Rows that belong to no request stay as they are.
struct GatherMlaCacheParams {
  void const* mla_cache;  // uint8 [num_pages, page_size, 656]
  int64_t page_stride_bytes;
  int64_t num_pages;
  int64_t page_size;
  int32_t const* block_table;  // [num_requests, pages_per_request]
  int64_t block_table_stride;
  int64_t num_requests;
  int64_t pages_per_request;
  int32_t const* cu_seq_lens;  // [num_requests + 1]
  void* kv;                    // bf16 [num_tokens, 576]
  int64_t kv_stride;
  int64_t num_tokens;
};
DSA_OPS_API Status gather_mla_cache(GatherMlaCacheParams const& params,
                                    cudaStream_t stream) noexcept;

// RoPE on the first 64 dims, optional Hadamard transform (scale 128^-0.5), quantisation per head
// vector, and weights_out = weights * q_scale * softmax_scale * num_heads^-0.5. fp32 throughout.
struct PrepareIndexQParams {
  void const* q;  // bf16 [num_rows, num_heads, 128]
  int64_t q_row_stride, q_head_stride;
  int64_t const* positions;    // [num_rows], clamped to [0, num_positions)
  float const* cos_sin_cache;  // [num_positions, 64]: 32 cosines, then 32 sines
  int64_t cos_sin_stride;
  int64_t num_positions;
  float const* weights;  // [num_rows, num_heads]
  int64_t weights_row_stride;
  float softmax_scale;
  bool interleaved;  // RoPE pairs (2i, 2i + 1) instead of (i, i + 32)
  bool hadamard;
  bool ue8m0;
  void* q_out;  // e4m3 [num_rows, num_heads, 128]
  int64_t q_out_row_stride, q_out_head_stride;
  float* weights_out;  // [num_rows, num_heads]
  int64_t weights_out_row_stride;
  int64_t num_rows;
  int32_t num_heads;
};
DSA_OPS_API Status prepare_index_q(PrepareIndexQParams const& params, cudaStream_t stream) noexcept;

// LayerNorm (skipped when norm_weight is null), RoPE, optional Hadamard transform, quantisation and
// the store into the index cache. fp32 throughout.
struct PrepareIndexKParams {
  void const* k;  // bf16 [num_tokens, 128]
  int64_t k_stride;
  float const* norm_weight;  // [128], nullable
  float const* norm_bias;    // [128], nullable together with norm_weight
  float eps;
  int64_t const* positions;    // [num_tokens]
  float const* cos_sin_cache;  // [num_positions, 64]
  int64_t cos_sin_stride;
  int64_t num_positions;
  bool interleaved;
  bool hadamard;
  bool ue8m0;
  void* index_cache;  // uint8 [num_pages, 64, 132]
  int64_t page_stride_bytes;
  int64_t num_pages;
  int64_t const* slot_mapping;  // [num_tokens], negative = skip
  int64_t num_tokens;
};
DSA_OPS_API Status prepare_index_k(PrepareIndexKParams const& params, cudaStream_t stream) noexcept;

// Joins two partial attentions over disjoint keys: out = (e^lse_a out_a + e^lse_b out_b) / e^lse.
// An lse of -inf or +inf marks an empty part; two empty parts give out = 0, lse = -inf.
struct MergeStatesParams {
  void const* out_a;  // bf16 [num_rows, num_heads, head_dim]
  int64_t out_a_row_stride, out_a_head_stride;
  float const* lse_a;  // [num_rows, num_heads]
  int64_t lse_a_row_stride;
  void const* out_b;
  int64_t out_b_row_stride, out_b_head_stride;
  float const* lse_b;
  int64_t lse_b_row_stride;
  void* out;
  int64_t out_row_stride, out_head_stride;
  float* lse;
  int64_t lse_row_stride;
  int64_t num_rows;
  int32_t num_heads;
  int32_t head_dim;
};
DSA_OPS_API Status merge_states(MergeStatesParams const& params, cudaStream_t stream) noexcept;

}  // namespace v0
}  // namespace dsa_ops
