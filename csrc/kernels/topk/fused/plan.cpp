#include "kernels/topk/fused/plan.h"

#include <algorithm>
#include <cmath>

#include "kernels/rounding.h"
#include "kernels/topk/fused/traits.h"

namespace dsa_ops::topk_sm90::fused {
namespace {

// Milliseconds fused and in chunks: 4096 x 12K 0.86 and 0.91, 2048 x 32K 0.99 and 1.04, 512 x 128K
// 0.92 and 1.02; but 4096 x 8K 0.58 and 0.51, 2048 x 16K 0.56 and 0.55, 256 x 128K 0.90 and 0.51,
// as two blocks at most score a row tile.
constexpr int64_t kMinRows = 512;
constexpr int64_t kMinLogits = 3 << 24;
constexpr int64_t kMaxKeys = 1 << 20;
constexpr int64_t kMinCapacity = 32;
constexpr int64_t kAlignment = 256;
constexpr int64_t kListBytes = kRowLists * static_cast<int64_t>(sizeof(Candidate));  // per slot
constexpr int64_t kCountBytes = kParts * kRowLists * sizeof(uint16_t);
constexpr int64_t kBookkeepingBytes = 512 << 10;  // what does not grow with the rows

// Candidates of a list that are rarely exceeded: those of a row that pass its gate spread over the
// lists at random; a quarter more, for gates below their mean, and six deviations.
int64_t wanted_capacity(int32_t top_k) {
  double const passing = top_k + 4.5 * std::sqrt(double{1} * top_k * kSampleStride);
  double const mean = 1.25 * (passing + 3 * kSampleStride) / kRowLists;
  return std::max(static_cast<int64_t>(mean + 6 * std::sqrt(mean)), kMinCapacity);
}

// Takes `bytes` of the workspace.
int64_t take(int64_t* end, int64_t bytes) {
  int64_t const begin = *end;
  *end = round_up(begin + bytes, kAlignment);
  return begin;
}

}  // namespace

bool may_fuse(int64_t num_rows, int64_t num_keys) noexcept {
  return num_rows >= kMinRows && num_keys <= kMaxKeys && num_rows * num_keys >= kMinLogits;
}

FusedPlan plan_fused(int64_t num_rows, int64_t num_keys, int32_t num_heads, int32_t top_k,
                     int32_t num_sms) noexcept {
  FusedPlan plan{};
  if (!may_fuse(num_rows, num_keys) || num_heads != kFusedHeads || top_k > kMaxFusedTopk ||
      num_sms < kRescoreCluster) {
    return plan;
  }
  int64_t const samples = ceil_div(num_keys, kSampleStride);
  int64_t const sample_stride = round_up(samples, 16);
  int64_t const row_bytes = static_cast<int64_t>(sizeof(RowGate)) + 3 * sizeof(int32_t);
  // Half of the workspace may be lists' counts and what a row takes beside its sample.
  int64_t const group_limit = (kFusedBytes - 4 * kBookkeepingBytes) /
                              (sample_stride * 4 + row_bytes) / kTileRows * kTileRows;
  int64_t const group = std::min(round_up(num_rows, kTileRows), group_limit);
  int64_t const list_bytes = kFusedBytes - kBookkeepingBytes - group * row_bytes;
  int64_t const scan_limit =
      list_bytes / (kListBytes * wanted_capacity(top_k) + kCountBytes) / kTileRows * kTileRows;
  int64_t const scans = ceil_div(group, scan_limit);
  int64_t const scan_rows = round_up(ceil_div(group, scans), kTileRows);
  int64_t const scan_tiles = scan_rows / kTileRows;

  plan.group_rows = static_cast<int32_t>(group);
  plan.scan_rows = static_cast<int32_t>(scan_rows);
  plan.num_scans = static_cast<int32_t>(ceil_div(group, scan_rows));
  plan.samples = static_cast<int32_t>(samples);
  plan.sample_stride = static_cast<int32_t>(sample_stride);
  plan.grid = num_sms;
  plan.logits_stride = round_up(num_keys, 64);

  int64_t end = 0;
  plan.gates = take(&end, group * sizeof(RowGate));
  plan.work = take(&end, plan.num_scans * sizeof(ScanWork));
  plan.tile_begins = take(&end, plan.num_scans * (scan_tiles + 1) * sizeof(int32_t));
  plan.first_tiles = take(&end, int64_t{plan.num_scans} * plan.grid * sizeof(int32_t));
  plan.redo_count = take(&end, sizeof(int32_t));
  plan.redo_tiles = take(&end, plan.num_scans * scan_tiles * sizeof(int32_t));
  plan.redo_rows = take(&end, plan.num_scans * scan_tiles * sizeof(int32_t));
  plan.counts = take(&end, scan_rows * kCountBytes);
  plan.lists = end;
  int64_t const rest = kFusedBytes - end;
  plan.list_capacity =
      static_cast<int32_t>(std::min(rest / (scan_rows * kListBytes), int64_t{kMaxListCapacity}));
  plan.rescore_clusters = static_cast<int32_t>(
      std::min<int64_t>(num_sms / kRescoreCluster, rest / (kTileRows * plan.logits_stride * 4)));
  plan.workspace_bytes =
      plan.lists + std::max({scan_rows * kListBytes * plan.list_capacity, group * sample_stride * 4,
                             plan.rescore_clusters * kTileRows * plan.logits_stride * 4});
  return plan;
}

}  // namespace dsa_ops::topk_sm90::fused
