// What one launch of the sparse MLA kernel reads, for both key sources.
#pragma once
#include <cstdint>

#include "kernels/sparse_mla/union.h"

namespace dsa_ops::sparse_mla {

struct KernelArgs {
  uint16_t const* q;
  int64_t q_row_stride, q_head_stride;
  uint8_t const* kv;
  int64_t kv_stride_bytes;  // between rows (bf16) or pages (FP8 cache)
  uint32_t page_size;       // FP8 cache only
  int64_t num_keys;         // rows or slots; an index outside [0, num_keys) is empty
  int32_t const* indices;
  int64_t indices_row_stride;
  int32_t const* topk_lens;  // nullable
  float const* attn_sink;    // nullable
  uint16_t* out;
  int64_t out_row_stride, out_head_stride;
  float* lse;          // [rows, heads]
  float* max_logits;   // [rows, heads], nullable
  float* partial_out;  // [rows, splits, heads, 512], used when num_splits > 1
  float* partial_lse;  // [rows, splits, heads], log2 units
  int32_t num_heads;
  int32_t head_tiles;
  int32_t top_k;
  int32_t num_splits;
  int32_t blocks_per_split;
  float score_scale_log2;  // sm_scale * log2(e)
  bool limits_copies;      // FP8 cache: fewer tokens under way than there is room for
  // FP8 cache, parts that a second kernel joins: [row tiles, splits, heads of a tile] times 512
  // values in f16, and reference and sum.
  uint2* part_values;
  float2* part_sums;
  int64_t num_rows;
  int32_t pack_rows;      // 1: no packs (always with an FP8 cache)
  PackTile const* tiles;  // of a launch with packs: unions.tiles or unions.repairs
  Unions unions;
};

struct CombineArgs {
  float const* partial_out;
  float const* partial_lse;
  float const* attn_sink;  // nullable
  uint16_t* out;
  int64_t out_row_stride, out_head_stride;
  float* lse;
  int32_t num_heads;
  int32_t num_splits;
};

}  // namespace dsa_ops::sparse_mla
