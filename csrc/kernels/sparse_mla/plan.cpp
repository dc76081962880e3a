#include "kernels/sparse_mla/plan.h"

#include <algorithm>

#include "kernels/rounding.h"

namespace dsa_ops {
namespace sparse_mla {

namespace {

int64_t blocks_of(int64_t top_k) { return std::max<int64_t>(1, ceil_div(top_k, 64)); }

struct Fp8Shape {
  int tile_heads;
  int block_clocks;  // of 64 tokens
  int fixed_clocks;  // query and output
};
// Measured on an H100 (2026-11-22), as are the clocks below.
constexpr Fp8Shape kFp8Shapes[] = {
    {8, 2000, 500}, {16, 2200, 1000}, {32, 2900, 2000}, {64, 4000, 4000}};
constexpr int kMaxClusterHeads = 32;  // of a tile whose splits, more than two, can be a cluster
constexpr int kMaxFp8Splits = 16;
constexpr int kPushClocks = 1500;  // of a cluster, and
constexpr int kPushBytesPerClock = 14;
constexpr int kJoinKernelClocks = 8000;  // of scratch, and
constexpr int kScratchBytesPerClock = 16;

bool is_power_of_two(int value) { return (value & (value - 1)) == 0; }

// Blocks or clusters that run at a time. Multiprocessors come in groups that a cluster cannot
// straddle: from three blocks on some are left over.
int64_t fp8_capacity(bool through_scratch, int num_splits, int32_t num_sms) {
  bool const straddles = num_splits <= 2 || through_scratch;
  int64_t const usable = straddles ? num_sms : int64_t{num_sms} * 7 / 8;
  return std::max<int64_t>(1, usable / num_splits);
}

int64_t join_clocks(Fp8Shape const& shape, bool through_scratch, int num_splits) {
  if (num_splits == 1) return 0;
  int64_t const part_bytes = int64_t{shape.tile_heads} * 512 * 2;
  if (through_scratch) return kJoinKernelClocks + part_bytes / kScratchBytesPerClock;
  return kPushClocks + part_bytes * (num_splits - 1) / num_splits / kPushBytesPerClock;
}

bool can_be_cluster(int tile_heads, int32_t num_heads, int num_splits) {
  if (num_splits == 2) return true;
  if (num_splits == 3) return tile_heads == kThreeSplitHeads && num_heads <= tile_heads;
  return tile_heads <= kMaxClusterHeads && is_power_of_two(num_splits);
}

bool can_split(Fp8Shape const& shape, int32_t num_heads, bool through_scratch, int num_splits,
               int64_t blocks) {
  if (num_splits == 1) return !through_scratch;
  if (num_splits > blocks) return false;
  return through_scratch || can_be_cluster(shape.tile_heads, num_heads, num_splits);
}

}  // namespace

SplitPlan plan_fp8(int64_t num_rows, int32_t num_heads, int64_t top_k, int32_t num_sms) {
  int64_t const blocks = blocks_of(top_k);
  SplitPlan best = {};
  int64_t best_clocks = INT64_MAX;
  for (Fp8Shape const& shape : kFp8Shapes) {
    int64_t const row_tiles = num_rows * ceil_div(num_heads, shape.tile_heads);
    for (int choice = 0; choice < 2 * kMaxFp8Splits; ++choice) {
      int const num_splits = choice / 2 + 1;
      bool const through_scratch = choice % 2 == 1;
      if (!can_split(shape, num_heads, through_scratch, num_splits, blocks)) continue;
      int64_t const waves = ceil_div(row_tiles, fp8_capacity(through_scratch, num_splits, num_sms));
      if (num_splits > 1 && waves > 1) continue;
      int64_t const clocks =
          waves * (ceil_div(blocks, num_splits) * shape.block_clocks + shape.fixed_clocks +
                   join_clocks(shape, through_scratch, num_splits));
      if (clocks >= best_clocks) continue;
      best_clocks = clocks;
      best = {shape.tile_heads, static_cast<int>(ceil_div(num_heads, shape.tile_heads)), num_splits,
              static_cast<int>(ceil_div(blocks, num_splits)), through_scratch};
    }
    if (shape.tile_heads >= num_heads) break;
  }
  return best;
}

PartBytes fp8_part_bytes(SplitPlan const& plan, int64_t num_rows) {
  if (!plan.through_scratch) return {0, 0};
  size_t const heads = static_cast<size_t>(num_rows) * plan.head_tiles * plan.num_splits *
                       static_cast<size_t>(plan.tile_heads);
  return {heads * 512 * sizeof(uint16_t), heads * 2 * sizeof(float)};
}

bool fp8_limits_copies(SplitPlan const& plan, int64_t num_rows) {
  constexpr int kStages = 4;
  constexpr int64_t kMaxBlocks = 128;  // of 64 tokens, 42 KB: 5 MB
  return num_rows * plan.num_splits * std::min(plan.blocks_per_split, kStages) > kMaxBlocks;
}

int fp8_headroom_log2(SplitPlan const& plan, int64_t top_k) {
  int headroom = plan.num_splits > 1 ? 0 : 3;  // parts are f16 themselves
  while (headroom > -8 && top_k > int64_t{1} << (14 - headroom)) --headroom;
  return headroom;
}

SplitPlan plan_bf16(int64_t num_rows, int32_t num_heads, int64_t top_k, int32_t num_sms) {
  SplitPlan plan = {};
  plan.tile_heads = kTileHeads;
  plan.head_tiles = static_cast<int>(ceil_div(num_heads, plan.tile_heads));
  int64_t const blocks = blocks_of(top_k);
  int64_t const tiles = std::max<int64_t>(1, num_rows * plan.head_tiles);
  int64_t const pairs = ceil_div(blocks, 2);
  int64_t const wanted = std::clamp<int64_t>(num_sms / tiles, 1, pairs);
  plan.blocks_per_split = static_cast<int>(2 * ceil_div(pairs, wanted));
  plan.num_splits = static_cast<int>(ceil_div(blocks, plan.blocks_per_split));
  return plan;
}

PartialBytes partial_bytes(SplitPlan const& plan, int64_t num_rows, int32_t num_heads) {
  if (plan.num_splits == 1) return {0, 0};
  size_t const parts = static_cast<size_t>(num_rows) * plan.num_splits * num_heads;
  return {static_cast<size_t>(round_up(parts * 512 * sizeof(float), 256)),
          static_cast<size_t>(round_up(parts * sizeof(float), 256))};
}

namespace {

constexpr float kMaxShare = 15.f / 16.f;  // the rest pays for building the unions
constexpr int64_t kMinBlocksPerSm = 256;  // of 64 tokens: about half a millisecond
constexpr int64_t kMaxPackTopK = 1 << 20;
constexpr int64_t kUnionScratchBytes = 80 << 20;  // 8,192 rows of 2,048 entries

}  // namespace

float max_union_share(int64_t num_rows, int32_t pack_rows, int32_t num_sms) {
  int64_t const waves = ceil_div(num_rows, num_sms);
  int64_t const pack_waves = ceil_div(ceil_div(num_rows, pack_rows), num_sms);
  return kMaxShare * std::min(1.f, static_cast<float>(waves) / (pack_waves * pack_rows));
}

PackPlan plan_packs(int64_t num_rows, int32_t num_heads, int64_t top_k, int32_t num_sms) {
  PackPlan const none = {1, num_rows, 0, 0, 0, 0};
  if (num_heads < 1 || num_sms < 1) return none;
  // A pair of rows of the tile belongs to one row of the pack.
  int const pack_rows = std::min(kMaxPackRows, 32 / ((num_heads + 1) / 2));
  // Where the attention is short, unions that lead to nothing would cost more than 5 % of it.
  int64_t const blocks = num_rows * ceil_div(std::min(top_k, kMaxPackTopK), 64);
  if (pack_rows < 2 || top_k > kMaxPackTopK || blocks < kMinBlocksPerSm * num_sms) return none;
  // No union is shorter than the average of its lists.
  if (max_union_share(num_rows, pack_rows, num_sms) * pack_rows <= 1.f) return none;
  int64_t const capacity =
      round_up(static_cast<int64_t>(kMaxShare * static_cast<float>(pack_rows * top_k)), 64);
  int64_t const max_packs = kUnionScratchBytes / (capacity * 5);  // a key and its members: 5 bytes
  if (max_packs == 0) return none;
  int64_t const packs = ceil_div(num_rows, pack_rows);
  int64_t const chunk_packs = ceil_div(packs, ceil_div(packs, max_packs));
  PackPlan plan;
  plan.pack_rows = pack_rows;
  plan.chunk_rows = chunk_packs * pack_rows;
  plan.capacity = static_cast<int32_t>(capacity);
  plan.tiles_bytes = static_cast<size_t>(round_up(plan.chunk_rows * 8, 256));
  plan.keys_bytes = static_cast<size_t>(chunk_packs * capacity) * 4;
  plan.members_bytes = static_cast<size_t>(chunk_packs * capacity);
  return plan;
}

}  // namespace sparse_mla

}  // namespace dsa_ops
