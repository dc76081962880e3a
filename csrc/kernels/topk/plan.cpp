#include "kernels/topk/plan.h"

#include <algorithm>

#include "kernels/topk/traits.h"

namespace dsa_ops::topk_sm90 {
namespace {

constexpr int64_t kReservedBytes = 1024;  // what the system takes of each block's shared memory
constexpr int64_t kSharedBytesOfSm = kMaxSharedBytes + kReservedBytes;
// Two resident blocks overlap one row's loads with the other's selection.
constexpr int64_t kHalfSmBytes = kSharedBytesOfSm / 2 - kReservedBytes;
// Below this many keys a block's fixed work (barriers, bin search) outweighs its share of the row.
constexpr int64_t kMinSliceKeys = 2048;
constexpr int64_t kMaxPacketKeys = 8;  // logits of one 16-byte load, bfloat16

constexpr int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// Keys that one of `cluster_size` blocks may meet: its slice, what precedes it in the first 16-byte
// packet, and the rest of the last group.
constexpr int64_t slice_capacity(int64_t num_columns, int64_t cluster_size) {
  int64_t const slice = round_up((num_columns + cluster_size - 1) / cluster_size, kMaxPacketKeys);
  return round_up(slice + kMaxPacketKeys - 1, kGroupKeys);
}

constexpr int64_t shared_bytes(int64_t capacity_keys, int64_t top_k) {
  return static_cast<int64_t>(sizeof(SharedStorage)) + 4 * (capacity_keys + round_up(top_k, 4));
}

// Longer slices keep whole tiles and reread the rest through the last one.
constexpr int64_t kMaxTiles = 3;
static_assert(shared_bytes(kMaxTiles * kTileKeys, kMaxTopk) <= kMaxSharedBytes);

}  // namespace

TopkPlan plan_topk(int64_t num_rows, int64_t num_columns, int32_t top_k, int32_t num_sms) noexcept {
  if (num_columns <= top_k) {  // every row is selected whole
    return TopkPlan{1, 0, static_cast<int32_t>(shared_bytes(0, 0)), num_rows};
  }
  int64_t cluster_size = 1;
  while (cluster_size < kMaxClusterSize &&
         shared_bytes(slice_capacity(num_columns, cluster_size), top_k) > kHalfSmBytes) {
    cluster_size *= 2;
  }
  while (cluster_size < kMaxClusterSize && 2 * cluster_size * num_rows <= num_sms &&
         num_columns / (2 * cluster_size) >= kMinSliceKeys) {
    cluster_size *= 2;
  }
  int64_t const capacity =
      std::min(slice_capacity(num_columns, cluster_size), kMaxTiles * kTileKeys);
  return TopkPlan{static_cast<int32_t>(cluster_size), static_cast<int32_t>(capacity),
                  static_cast<int32_t>(shared_bytes(capacity, top_k)), num_rows * cluster_size};
}

}  // namespace dsa_ops::topk_sm90
