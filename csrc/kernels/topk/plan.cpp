#include "kernels/topk/plan.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>

#include "kernels/topk/gated/traits.h"
#include "kernels/topk/resident/traits.h"

namespace dsa_ops::topk_sm90 {
namespace {

constexpr int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

struct Choice {
  int64_t max_rows;
  int64_t max_columns;
  Selector selector;
  int32_t cluster_size;  // of the gated kernel; the resident one's follows from shared memory
};

// The first line that covers the sizes holds. Figures: microseconds on an H100 with k = 2048, see
// README.md; bounds between two measured sizes are a guess.
Choice choose(int64_t num_rows, int64_t num_columns, int64_t num_sms) {
  constexpr int64_t kAny = std::numeric_limits<int64_t>::max();
  Choice const choices[] = {
      // A gate costs more than it saves: 4096 x 8K 134 against 157, 128 x 8K 12.4 against 13.0.
      {kAny, 16384, Selector::kResident, 0},
      // All blocks of a cluster select, not only the first: 1 x 128K 15.0 against 18.0, 16 x 128K
      // 19.5 against 23.0; but 1 x 1M 67 against 37.
      {16, 262144, Selector::kResident, 0},
      // 64 x 32K 17.1 against 18.2; but 64 x 128K 43 against 38.
      {num_sms / 2, 65536, Selector::kResident, 0},
      // One block reads 8K to 32K no slower than two: 128 x 8K 14.4 against 17.7.
      {kAny, 32768, Selector::kGated, 1},
      // 1 x 1M: 158, 115, 72, 48 and 37 with 1, 2, 4, 8 and 16 blocks.
      {15, kAny, Selector::kGated, 16},
      // 16 x 1M: 172, 127, 83, 92 and 87.
      {63, kAny, Selector::kGated, 4},
      // 64 x 128K: 41, 38 and 44 with 1, 2 and 4 blocks; 128 x 64K: 34, 33 and 42.
      {num_sms - 1, kAny, Selector::kGated, 2},
      // 256 x 128K: 74 and 87 with 1 and 2 blocks, 124 resident.
      {kAny, kAny, Selector::kGated, 1},
  };
  return *std::find_if(std::begin(choices), std::end(choices), [&](Choice const& choice) {
    return num_rows <= choice.max_rows && num_columns <= choice.max_columns;
  });
}

namespace resident_plan {

using namespace resident;

constexpr int64_t kReservedBytes = 1024;  // what the system takes of each block's shared memory
constexpr int64_t kSharedBytesOfSm = kMaxSharedBytes + kReservedBytes;
// Two resident blocks overlap one row's loads with the other's selection.
constexpr int64_t kHalfSmBytes = kSharedBytesOfSm / 2 - kReservedBytes;
// Below this many keys a block's fixed work (barriers, bin search) outweighs its share of the row.
constexpr int64_t kMinSliceKeys = 2048;
constexpr int64_t kMaxPacketKeys = 8;  // logits of one 16-byte load, bfloat16

// Keys that one of `cluster_size` blocks may meet: its slice, what precedes it in the first 16-byte
// packet, and the rest of the last group.
constexpr int64_t slice_capacity(int64_t num_columns, int64_t cluster_size) {
  int64_t const slice = round_up((num_columns + cluster_size - 1) / cluster_size, kMaxPacketKeys);
  return round_up(slice + kMaxPacketKeys - 1, kGroupKeys);
}

constexpr int64_t shared_bytes(int64_t capacity, int64_t top_k) {
  return static_cast<int64_t>(sizeof(SharedStorage)) + 4 * (capacity + round_up(top_k, 4));
}

// Longer slices keep whole tiles and reread the rest through the last one.
constexpr int64_t kMaxTiles = 3;
static_assert(shared_bytes(kMaxTiles * kTileKeys, kMaxTopk) <= kMaxSharedBytes);

TopkPlan make(int64_t num_rows, int64_t num_columns, int32_t top_k, int32_t num_sms) {
  if (num_columns <= top_k) {  // every row is selected whole
    return TopkPlan{
        Selector::kResident, 1, 0, 0, static_cast<int32_t>(shared_bytes(0, 0)), num_rows};
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
  return TopkPlan{Selector::kResident,
                  static_cast<int32_t>(cluster_size),
                  static_cast<int32_t>(capacity),
                  0,
                  static_cast<int32_t>(shared_bytes(capacity, top_k)),
                  num_rows * cluster_size};
}

}  // namespace resident_plan

namespace gated_plan {

using namespace gated;

constexpr int64_t kMinCapacity = 4096;
static_assert(kMinCapacity >= kMaxTopk);
// Rows alone take a larger window of the bitmap, where one block per multiprocessor is enough.
constexpr int64_t kWindowWords = 4096;
constexpr int64_t kWindowWordsOfFewRows = 32768;

int64_t num_samples(int64_t num_columns) {
  int32_t const length = static_cast<int32_t>(std::min<int64_t>(num_columns, 1 << 30));
  return int64_t{kSampleChunks} << sample_chunk_log2(length);
}

// 1.6 times what passes the gate on average (see gate_rank) in the longest row: five deviations.
int64_t candidate_capacity(int64_t num_columns, int64_t top_k) {
  double const spacing =
      static_cast<double>(num_columns) / static_cast<double>(num_samples(num_columns));
  double const expected = static_cast<double>(top_k) / spacing;
  double const passing = (expected + 4.0 * std::sqrt(expected) + 4.0) * spacing;
  double const capacity = std::min(1.6 * passing, 3.0 * kMaxTopk);
  return std::max(kMinCapacity, round_up(static_cast<int64_t>(capacity), 256));
}

int64_t shared_bytes(int64_t capacity, int64_t window_words, int64_t num_columns, int64_t top_k) {
  int64_t const bitmap_words = window_words + window_words / 32;
  return static_cast<int64_t>(sizeof(SharedStorage)) +
         4 * (std::max<int64_t>(kBins, top_k) + 2 * capacity +
              std::max(bitmap_words, num_samples(num_columns)));
}

TopkPlan make(int64_t num_rows, int64_t num_columns, int32_t top_k, int32_t num_sms,
              int32_t cluster_size) {
  int64_t const capacity = candidate_capacity(num_columns, top_k);
  int64_t const max_window = num_rows <= num_sms / 4 ? kWindowWordsOfFewRows : kWindowWords;
  int64_t window_words = std::min(round_up(num_columns, 1024) / 32, max_window);
  if (shared_bytes(capacity, window_words, num_columns, top_k) > kMaxSharedBytes) {
    window_words = kWindowWords;
  }
  return TopkPlan{Selector::kGated,
                  cluster_size,
                  static_cast<int32_t>(capacity),
                  static_cast<int32_t>(window_words),
                  static_cast<int32_t>(shared_bytes(capacity, window_words, num_columns, top_k)),
                  num_rows * cluster_size};
}

}  // namespace gated_plan
}  // namespace

TopkPlan plan_topk(int64_t num_rows, int64_t num_columns, int32_t top_k, int32_t num_sms) noexcept {
  Choice const choice = choose(num_rows, num_columns, num_sms);
  return choice.selector == Selector::kResident
             ? resident_plan::make(num_rows, num_columns, top_k, num_sms)
             : gated_plan::make(num_rows, num_columns, top_k, num_sms, choice.cluster_size);
}

}  // namespace dsa_ops::topk_sm90
