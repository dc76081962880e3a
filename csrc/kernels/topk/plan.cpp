#include "kernels/topk/plan.h"

#include <algorithm>
#include <cmath>

#include "kernels/topk/traits.h"

namespace dsa_ops::topk_sm90 {
namespace {

// Rows of at most this many logits are candidates as a whole: a gate would save less than it costs.
constexpr int64_t kUngatedColumns = 8192;
constexpr int64_t kMinCapacity = 4096;
// Rows alone take a larger window of the bitmap, where one block per multiprocessor is enough.
constexpr int64_t kWindowWords = 4096;
constexpr int64_t kWindowWordsOfFewRows = 32768;

constexpr int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// 1.6 times what passes the gate on average (see gate_rank) in the longest row: five deviations.
int64_t candidate_capacity(int64_t num_columns, int64_t top_k) {
  if (num_columns <= kUngatedColumns) return std::max(num_columns, top_k);
  int32_t const length = static_cast<int32_t>(std::min<int64_t>(num_columns, 1 << 30));
  double const spacing =
      static_cast<double>(num_columns) / (kSampleChunks << sample_chunk_log2(length));
  double const expected = static_cast<double>(top_k) / spacing;
  double const passing = (expected + 4.0 * std::sqrt(expected) + 4.0) * spacing;
  double const capacity = std::min(1.6 * passing, 3.0 * kMaxTopk);
  return std::max(kMinCapacity, round_up(static_cast<int64_t>(capacity), 256));
}

int64_t shared_bytes(int64_t capacity, int64_t window_words, int64_t num_columns, int64_t top_k) {
  int64_t const bitmap_words = window_words + window_words / 32;
  int32_t const length = static_cast<int32_t>(std::min<int64_t>(num_columns, 1 << 30));
  int64_t const sample_words =
      num_columns > capacity ? int64_t{kSampleChunks} << sample_chunk_log2(length) : 0;
  return static_cast<int64_t>(sizeof(SharedStorage)) +
         4 * (std::max<int64_t>(kBins, top_k) + 2 * capacity +
              std::max(bitmap_words, sample_words));
}

// The largest cluster that leaves the multiprocessors at most two blocks each, and every block a
// tile.
int32_t cluster_size_of(int64_t num_rows, int64_t num_columns, int64_t num_sms) {
  int32_t cluster_size = 1;
  while (cluster_size < kMaxClusterSize && cluster_size * num_rows <= num_sms &&
         num_columns >= 2 * cluster_size * int64_t{kTileLogits}) {
    cluster_size *= 2;
  }
  return cluster_size;
}

}  // namespace

TopkPlan plan_topk(int64_t num_rows, int64_t num_columns, int32_t top_k, int32_t num_sms) noexcept {
  if (num_columns <= top_k) {  // every row is selected whole
    return TopkPlan{1, 0, 0, static_cast<int32_t>(sizeof(SharedStorage)), num_rows};
  }
  int32_t const cluster_size = cluster_size_of(num_rows, num_columns, num_sms);
  int64_t const capacity = candidate_capacity(num_columns, top_k);
  int64_t const max_window = num_rows <= num_sms / 4 ? kWindowWordsOfFewRows : kWindowWords;
  int64_t window_words = std::min(round_up(num_columns, 1024) / 32, max_window);
  if (shared_bytes(capacity, window_words, num_columns, top_k) > kMaxSharedBytes) {
    window_words = kWindowWords;
  }
  return TopkPlan{cluster_size, static_cast<int32_t>(capacity), static_cast<int32_t>(window_words),
                  static_cast<int32_t>(shared_bytes(capacity, window_words, num_columns, top_k)),
                  num_rows * cluster_size};
}

}  // namespace dsa_ops::topk_sm90
