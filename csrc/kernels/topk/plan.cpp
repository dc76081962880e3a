#include "kernels/topk/plan.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <iterator>
#include <limits>

#include "kernels/rounding.h"
#include "kernels/topk/binned/traits.h"
#include "kernels/topk/gated/traits.h"
#include "kernels/topk/resident/traits.h"
#include "kernels/topk/staged/traits.h"

namespace dsa_ops::topk_sm90 {
namespace {

constexpr int64_t kAny = std::numeric_limits<int64_t>::max();
constexpr int64_t kMaxPacketLogits = 8;  // bfloat16
constexpr int32_t kGatedThreads = gated::kThreads;

// Logits in front of a block's slice that lie in its first 16-byte packet, at most, beyond what the
// slice leaves free: a range that starts later in an aligned row is so much shorter.
constexpr int64_t before_slice(RowStarts starts, int32_t cluster_size) {
  bool const within =
      starts == RowStarts::kAligned || (starts == RowStarts::kAlignedRows && cluster_size == 1);
  return within ? 0 : kMaxPacketLogits - 1;
}

// All but gated blocks hold up to thread_keys keys a thread.
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
      // 128 x 8K: 10.1 against 12.0 staged; 4096 x 8K: 91.5 and 83.6.
      {Selector::kBinned, num_sms, 8192, 1, binned::kThreads, binned::kThreadKeys},
      {Selector::kStaged, kAny, 8192, 1, staged::kThreads, staged::kThreadLogits},
      // 1 x 128K: 9.1 against 11.2 gated; but 8 x 128K 13.2 and 11.2.
      {Selector::kResident, num_sms / 18, 131072, resident::kClusterSize, resident::kThreads,
       resident::kThreadKeys},
      // 16 x 128K: 13.0 and 18.1 with 8 blocks and 2. 30 clusters of 8 fit at once: 64 x 32K takes
      // 22.3 and 12.8.
      {Selector::kGated, num_sms * 2 / 9, 262144, 8, kGatedThreads, 0},
      // 1 x 1M: 17.5 and 26.0 with 16 blocks and 8; 16 x 1M: 49.5 and 37.7.
      {Selector::kGated, num_sms / 18, kAny, 16, kGatedThreads, 0},
      // 128 x 64K: 22.9 and 23.4 with 2 blocks and 1; 256 x 128K: 64.9 and 62.5.
      {Selector::kGated, num_sms, 262144, 2, kGatedThreads, 0},
      // Longer rows would overflow one block's list.
      {Selector::kGated, kAny, 262144, 1, kGatedThreads, 0},
      {Selector::kGated, kAny, kAny, 8, kGatedThreads, 0},
  };
  return *std::find_if(std::begin(choices), std::end(choices), [&](Choice const& choice) {
    int64_t const slice = round_up(ceil_div(num_columns, choice.cluster_size), 8);
    int64_t const keys = slice + before_slice(starts, choice.cluster_size);
    bool const fits =
        choice.selector == Selector::kGated || keys <= choice.block_threads * choice.thread_keys;
    return fits && num_rows <= choice.max_rows && num_columns <= choice.max_columns;
  });
}

// Dynamic shared memory of a block that holds its part of a row. Enough for bfloat16 too.
int32_t held_bytes(Choice const& choice, int64_t num_columns, int32_t top_k, RowStarts starts) {
  switch (choice.selector) {
    case Selector::kBinned: return sizeof(binned::BucketStorage);
    case Selector::kResident: return sizeof(resident::SharedStorage);
    case Selector::kStaged: {  // winners take the place of the row
      int64_t const logits = num_columns + before_slice(starts, 1);
      int64_t const row =
          round_up(logits * static_cast<int64_t>(sizeof(float)), staged::kPairBytes);
      return static_cast<int32_t>(sizeof(staged::SharedStorage) +
                                  std::max<int64_t>(row, 4 * top_k));
    }
    default: return 0;
  }
}

namespace gated_plan {

using namespace gated;

// Longer slices are ordered a window at a time.
constexpr int64_t kMaxWindowWords = 4096;
static_assert(kMaxWindowWords * sizeof(uint16_t) <= sizeof(BinStorage::bins),
              "The ranks of a window's words take the place of the bins.");

size_t storage_bytes(int32_t cluster_size) {
  switch (cluster_size) {
    case 1: return sizeof(SharedStorage<1, kThreads>);
    case 2: return sizeof(SharedStorage<2, kThreads>);
    case 8: return sizeof(SharedStorage<8, kThreads>);
    default: return sizeof(SharedStorage<16, kThreads>);
  }
}

TopkPlan make(int64_t num_rows, int64_t num_columns, int32_t top_k, int32_t cluster_size) {
  int64_t const slice = round_up(ceil_div(num_columns, cluster_size), 8);
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
  plan.shared_bytes = held_bytes(choice, num_columns, top_k, starts);
  plan.num_blocks = num_rows * choice.cluster_size;
  return plan;
}

TopkPlan plan_portable(int64_t num_rows, int64_t num_columns, int32_t top_k) noexcept {
  return gated_plan::make(num_rows, num_columns, top_k, 8);
}

}  // namespace dsa_ops::topk_sm90
