#include "kernels/sparse_mla/plan.h"

#include <algorithm>

namespace dsa_ops {
namespace sparse_mla {

SplitPlan plan_splits(int64_t num_rows, int32_t num_heads, int64_t top_k, int32_t num_sms) {
  SplitPlan plan;
  plan.tile_heads = 8;
  while (plan.tile_heads < 64 && plan.tile_heads < num_heads) plan.tile_heads *= 2;
  plan.head_tiles = (num_heads + plan.tile_heads - 1) / plan.tile_heads;
  int64_t const blocks = std::max<int64_t>(1, (top_k + 63) / 64);
  int64_t const tiles = std::max<int64_t>(1, num_rows * plan.head_tiles);
  int64_t const wanted = std::clamp<int64_t>(num_sms / tiles, 1, blocks);
  plan.blocks_per_split = static_cast<int>((blocks + wanted - 1) / wanted);
  plan.num_splits = static_cast<int>((blocks + plan.blocks_per_split - 1) / plan.blocks_per_split);
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
