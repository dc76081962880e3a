#include "kernels/sparse_mla/plan.h"

#include <algorithm>

namespace dsa_ops {
namespace sparse_mla {

SplitPlan plan_splits(int64_t num_rows, int32_t num_heads, int64_t top_k, int32_t num_sms) {
  SplitPlan plan;
  plan.head_tiles = (num_heads + 63) / 64;
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

namespace {

constexpr int kMaxPackRows = 8;                  // a byte of members an entry
constexpr float kMaxShare = 15.f / 16.f;         // the rest pays for the union and the packed tiles
constexpr int64_t kUnionScratchBytes = 64 << 20;  // 8,000 rows of 2,048 entries

int64_t divide_up(int64_t dividend, int64_t divisor) { return (dividend + divisor - 1) / divisor; }

}  // namespace

float max_union_share(int64_t num_rows, int32_t pack_rows, int32_t num_sms) {
  // A pack's tile is as long as its union: with few rows it counts how many tiles follow each other
  // on a multiprocessor.
  int64_t const waves = divide_up(num_rows, num_sms);
  int64_t const pack_waves = divide_up(divide_up(num_rows, pack_rows), num_sms);
  return kMaxShare * std::min(1.f, static_cast<float>(waves) / (pack_waves * pack_rows));
}

PackPlan plan_packs(int64_t num_rows, int32_t num_heads, int64_t top_k, int32_t num_sms) {
  // A thread's pair of tile rows belongs to one row, see TileRow.
  int const rows = std::min(kMaxPackRows, 32 / std::max(1, (num_heads + 1) / 2));
  PackPlan const none = {1, 0, num_rows, 0, 0};
  if (rows < 2 || num_rows < 2 || top_k < 1) return none;
  // A union is at least as long as the average list.
  if (max_union_share(num_rows, rows, num_sms) * rows <= 1.f) return none;
  PackPlan plan = none;
  plan.rows = rows;
  plan.capacity = static_cast<int64_t>(kMaxShare * rows * top_k);
  int64_t const bytes = plan.capacity * static_cast<int64_t>(sizeof(uint32_t));
  int64_t const packs = std::min(divide_up(num_rows, rows), kUnionScratchBytes / bytes);
  if (max_union_share(packs * rows, rows, num_sms) * rows <= 1.f) return none;
  plan.rows_per_chunk = packs * rows;
  plan.header_bytes = (packs * 8 + 255) / 256 * 256;
  plan.entry_bytes = packs * bytes;
  return plan;
}

}  // namespace sparse_mla

}  // namespace dsa_ops
