#include "kernels/sparse_mla/plan.h"

#include <algorithm>

namespace dsa_ops {
namespace sparse_mla {

namespace {

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t blocks_of(int64_t top_k) { return std::max<int64_t>(1, ceil_div(top_k, 64)); }

}  // namespace

SplitPlan plan_fp8(int64_t num_rows, int32_t num_heads, int64_t top_k, int32_t num_sms) {
  constexpr int kMaxSplits = 16;
  int64_t const blocks = blocks_of(top_k);
  SplitPlan plan;
  plan.tile_heads = 8;
  while (plan.tile_heads < 64 && plan.tile_heads < num_heads) plan.tile_heads *= 2;
  auto const fits = [&](int tile_heads, int num_splits) {
    return num_rows * ceil_div(num_heads, tile_heads) * num_splits <= num_sms;
  };
  plan.num_splits = 1;
  while (plan.num_splits < kMaxSplits && 2 * plan.num_splits <= blocks &&
         fits(plan.tile_heads, 2 * plan.num_splits)) {
    plan.num_splits *= 2;
  }
  plan.head_tiles = static_cast<int>(ceil_div(num_heads, plan.tile_heads));
  plan.blocks_per_split = static_cast<int>(ceil_div(blocks, plan.num_splits));
  return plan;
}

SplitPlan plan_bf16(int64_t num_rows, int32_t num_heads, int64_t top_k, int32_t num_sms) {
  SplitPlan plan;
  plan.tile_heads = 64;
  plan.head_tiles = static_cast<int>(ceil_div(num_heads, plan.tile_heads));
  int64_t const blocks = blocks_of(top_k);
  int64_t const tiles = std::max<int64_t>(1, num_rows * plan.head_tiles);
  int64_t const wanted = std::clamp<int64_t>(num_sms / tiles, 1, blocks);
  plan.blocks_per_split = static_cast<int>(ceil_div(blocks, wanted));
  plan.num_splits = static_cast<int>(ceil_div(blocks, plan.blocks_per_split));
  return plan;
}

PartialBytes partial_bytes(SplitPlan const& plan, int64_t num_rows, int32_t num_heads) {
  if (plan.num_splits == 1) return {0, 0};
  size_t const parts = static_cast<size_t>(num_rows) * plan.num_splits * num_heads;
  auto const round_up = [](size_t bytes) { return (bytes + 255) / 256 * 256; };
  return {round_up(parts * 512 * sizeof(float)), round_up(parts * sizeof(float))};
}

}  // namespace sparse_mla

}  // namespace dsa_ops
