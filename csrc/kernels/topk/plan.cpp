#include "kernels/topk/plan.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <iterator>
#include <limits>

#include "kernels/topk/gated/traits.h"
#include "kernels/topk/resident/traits.h"
#include "kernels/topk/staged/traits.h"

namespace dsa_ops::topk_sm90 {
namespace {

constexpr int64_t kAny = std::numeric_limits<int64_t>::max();
constexpr int64_t kMaxPacketLogits = 8;  // bfloat16
constexpr int32_t kGatedThreads = gated::kThreads;

constexpr int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// Logits in front of a block's slice that lie in its first 16-byte packet, at most, beyond what the
// slice leaves free: a range that starts later in an aligned row is so much shorter.
constexpr int64_t before_slice(RowStarts starts, int32_t cluster_size) {
  bool const within =
      starts == RowStarts::kAligned || (starts == RowStarts::kAlignedRows && cluster_size == 1);
  return within ? 0 : kMaxPacketLogits - 1;
}

// Resident and staged blocks hold up to thread_keys keys a thread.
struct Choice {
  Selector selector;
  int64_t max_rows;
  int64_t max_columns;
  int32_t cluster_size;
  int32_t block_threads;
  int32_t thread_keys;
};

// The first line that covers the sizes holds, but for one whose blocks cannot take the row.
// Figures: microseconds on an H100 with k = 2048, see README.md; bounds between two measured sizes
// are a guess.
Choice choose(int64_t num_rows, int64_t num_columns, RowStarts starts, int64_t num_sms) {
  Choice const choices[] = {
      // 128 x 8K: 10.4 against 11.6 staged; 4096 x 8K: 162 and 87.
      {Selector::kResident, num_sms, 8192, 1, 1024, 8},
      {Selector::kStaged, kAny, 8192, 1, staged::kThreads, staged::kThreadLogits},
      // 1 x 128K: 9.2 against 12.2 gated, 8 x 128K: 12.9 against 14.0. 14 such clusters fit at once.
      {Selector::kResident, num_sms / 16, 131072, 16, 512, 16},
      // 16 x 128K: 14.4 with 4 blocks; but 30 clusters of them fit at once: 32 x 32K 18.4, and 12.6
      // with 2 blocks. 1 x 1M: 17.8 with 16.
      {Selector::kGated, num_sms / 5, 262144, 4, kGatedThreads, 0},
      {Selector::kGated, num_sms / 18, kAny, 16, kGatedThreads, 0},
      {Selector::kGated, num_sms / 4, kAny, 4, kGatedThreads, 0},
      // 64 x 128K: 23.9; 128 x 64K: 24.9 and 23.7 with 1 and 2 blocks.
      {Selector::kGated, num_sms, kAny, 2, kGatedThreads, 0},
      // 256 x 128K: 63.7. Longer rows would overflow one block's list.
      {Selector::kGated, kAny, 262144, 1, kGatedThreads, 0},
      {Selector::kGated, kAny, kAny, 4, kGatedThreads, 0},
  };
  return *std::find_if(std::begin(choices), std::end(choices), [&](Choice const& choice) {
    int64_t const slice =
        round_up((num_columns + choice.cluster_size - 1) / choice.cluster_size, 8);
    int64_t const keys = slice + before_slice(starts, choice.cluster_size);
    bool const fits =
        choice.selector == Selector::kGated || keys <= choice.block_threads * choice.thread_keys;
    return fits && num_rows <= choice.max_rows && num_columns <= choice.max_columns;
  });
}

// Dynamic shared memory of a resident block.
int64_t resident_bytes(Choice const& choice) {
  using resident::SharedStorage;
  return choice.cluster_size == 1 ? sizeof(SharedStorage<1, 1024, 8>)
                                  : sizeof(SharedStorage<16, 512, 16>);
}

// Of a staged one, whose winners take the place of the row. Enough for bfloat16 too.
int64_t staged_bytes(int64_t num_columns, int32_t top_k, RowStarts starts) {
  int64_t const logits = num_columns + before_slice(starts, 1);
  int64_t const row = round_up(logits * static_cast<int64_t>(sizeof(float)), staged::kPairBytes);
  return static_cast<int64_t>(sizeof(staged::SharedStorage)) + std::max<int64_t>(row, 4 * top_k);
}

namespace gated_plan {

using namespace gated;

// Longer slices are ordered a window at a time.
constexpr int64_t kMaxWindowWords = 4096;

size_t storage_bytes(int32_t cluster_size) {
  switch (cluster_size) {
    case 1: return sizeof(SharedStorage<1, kThreads>);
    case 2: return sizeof(SharedStorage<2, kThreads>);
    case 4: return sizeof(SharedStorage<4, kThreads>);
    default: return sizeof(SharedStorage<16, kThreads>);
  }
}

TopkPlan make(int64_t num_rows, int64_t num_columns, int32_t top_k, int32_t cluster_size) {
  int64_t const slice = round_up((num_columns + cluster_size - 1) / cluster_size, 8);
  int64_t const window_words = std::min(round_up(slice, 1024) / 32, kMaxWindowWords);
  int64_t const capacity = max_candidates(cluster_size);
  int64_t const shared_bytes = static_cast<int64_t>(storage_bytes(cluster_size)) +
                               static_cast<int64_t>(sizeof(uint2)) * capacity +
                               4 * (window_words + window_words / 32 + top_k);
  TopkPlan plan{};
  plan.selector = Selector::kGated;
  plan.cluster_size = cluster_size;
  plan.block_threads = kThreads;
  plan.capacity = static_cast<int32_t>(capacity);
  plan.window_words = static_cast<int32_t>(window_words);
  plan.shared_bytes = static_cast<int32_t>(shared_bytes);
  plan.num_blocks = num_rows * cluster_size;
  return plan;
}

}  // namespace gated_plan
}  // namespace

TopkPlan plan_topk(int64_t num_rows, int64_t num_columns, int32_t top_k, RowStarts starts,
                   int32_t num_sms) noexcept {
  Choice const choice = choose(num_rows, num_columns, starts, num_sms);
  if (choice.selector == Selector::kGated) {
    return gated_plan::make(num_rows, num_columns, top_k, choice.cluster_size);
  }
  TopkPlan plan{};
  plan.selector = choice.selector;
  plan.cluster_size = choice.cluster_size;
  plan.block_threads = choice.block_threads;
  plan.thread_keys = choice.thread_keys;
  plan.shared_bytes = static_cast<int32_t>(choice.selector == Selector::kStaged
                                               ? staged_bytes(num_columns, top_k, starts)
                                               : resident_bytes(choice));
  plan.num_blocks = num_rows * choice.cluster_size;
  return plan;
}

}  // namespace dsa_ops::topk_sm90
