// What one launch of the sparse MLA kernel reads, for both key sources.
#pragma once
#include <cmath>
#include <cstdint>

#include "kernels/sparse_mla/union.h"

namespace dsa_ops::sparse_mla {

inline constexpr float kLn2 = 0.6931471805599453f;  // from log2 to natural units

struct KernelArgs {
  uint16_t const* q;
  int64_t q_row_stride, q_head_stride;
  uint8_t const* kv;
  int64_t kv_stride_bytes;  // between rows (bf16) or pages (FP8 cache)
  uint32_t page_size;       // of a cache
  uint32_t page_magic;      // FP8 cache: a slot times it, shifted right, is the slot's page
  uint32_t page_shift;
  int64_t num_keys;  // rows or slots; an index outside [0, num_keys) is empty
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
  uint32_t num_tiles;      // FP8 cache: rows times head tiles
  bool limits_copies;      // FP8 cache: fewer tokens under way than there is room for
  float headroom_log2;     // FP8 cache: see fp8_headroom_log2
  // FP8 cache, parts that a second kernel joins: [row tiles, splits, heads of a tile] times 512
  // values in f16, and reference and sum.
  uint2* part_values;
  float2* part_sums;
  int64_t num_rows;
  int32_t pack_rows;      // 1: no packs (always with an FP8 cache)
  PackTile const* tiles;  // of a launch with packs: unions.tiles or unions.repairs
  Unions unions;
};

// Division by the page size as a product: exact below 2^31, where every slot is.
inline void set_page_size(KernelArgs& args, uint32_t page_size) {
  uint32_t log2_above = 0;
  while ((uint64_t{1} << log2_above) < page_size) ++log2_above;
  args.page_size = page_size;
  args.page_shift = 31 + log2_above;
  args.page_magic = static_cast<uint32_t>((uint64_t{1} << args.page_shift) / page_size + 1);
}

// The arguments that `Params` of prefill and of decode share. The caller adds its keys and its
// plan.
template <class Params>
KernelArgs common_kernel_args(Params const& params) {
  KernelArgs args = {};
  args.q = static_cast<uint16_t const*>(params.q);
  args.q_row_stride = params.q_row_stride;
  args.q_head_stride = params.q_head_stride;
  args.indices = params.indices;
  args.indices_row_stride = params.indices_row_stride;
  args.topk_lens = params.topk_lens;
  args.attn_sink = params.attn_sink;
  args.out = static_cast<uint16_t*>(params.out);
  args.out_row_stride = params.out_row_stride;
  args.out_head_stride = params.out_head_stride;
  args.lse = params.lse;
  args.num_heads = params.num_heads;
  args.top_k = static_cast<int32_t>(params.top_k);
  args.score_scale_log2 = params.sm_scale * static_cast<float>(M_LOG2E);
  args.num_rows = params.num_rows;
  args.pack_rows = 1;
  return args;
}

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
