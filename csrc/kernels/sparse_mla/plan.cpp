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

namespace {

constexpr float kMaxShare = 15.f / 16.f;  // the rest pays for building the unions
constexpr int64_t kMinBlocksPerSm = 256;  // of 64 tokens: about half a millisecond
constexpr int64_t kMaxPackTopK = 1 << 20;
constexpr int64_t kUnionScratchBytes = 80 << 20;  // 8,192 rows of 2,048 entries

int64_t divide_up(int64_t dividend, int64_t divisor) { return (dividend + divisor - 1) / divisor; }

}  // namespace

float max_union_share(int64_t num_rows, int32_t pack_rows, int32_t num_sms) {
  int64_t const waves = divide_up(num_rows, num_sms);
  int64_t const pack_waves = divide_up(divide_up(num_rows, pack_rows), num_sms);
  return kMaxShare * std::min(1.f, static_cast<float>(waves) / (pack_waves * pack_rows));
}

PackPlan plan_packs(int64_t num_rows, int32_t num_heads, int64_t top_k, int32_t num_sms) {
  PackPlan const none = {1, num_rows, 0, 0, 0, 0};
  // A pair of rows of the tile belongs to one row of the pack.
  int const pack_rows = std::min(kMaxPackRows, 32 / ((num_heads + 1) / 2));
  // Where the attention is short, unions that lead to nothing would cost more than 5 % of it.
  int64_t const blocks = num_rows * divide_up(std::min(top_k, kMaxPackTopK), 64);
  if (pack_rows < 2 || top_k > kMaxPackTopK || blocks < kMinBlocksPerSm * num_sms) return none;
  // No union is shorter than the average of its lists.
  if (max_union_share(num_rows, pack_rows, num_sms) * pack_rows <= 1.f) return none;
  int64_t const capacity =
      divide_up(static_cast<int64_t>(kMaxShare * static_cast<float>(pack_rows * top_k)), 64) * 64;
  int64_t const max_packs = kUnionScratchBytes / (capacity * 5);  // a key and its members: 5 bytes
  if (max_packs == 0) return none;
  int64_t const packs = divide_up(num_rows, pack_rows);
  int64_t const chunk_packs = divide_up(packs, divide_up(packs, max_packs));
  PackPlan plan;
  plan.pack_rows = pack_rows;
  plan.chunk_rows = chunk_packs * pack_rows;
  plan.capacity = static_cast<int32_t>(capacity);
  plan.tiles_bytes = static_cast<size_t>(divide_up(plan.chunk_rows * 8, 256) * 256);
  plan.keys_bytes = static_cast<size_t>(chunk_packs * capacity) * 4;
  plan.members_bytes = static_cast<size_t>(chunk_packs * capacity);
  return plan;
}

}  // namespace sparse_mla

}  // namespace dsa_ops
