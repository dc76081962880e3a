#include "kernels/indexer/plan.h"

#include <algorithm>

#include "kernels/indexer/traits.h"

namespace dsa_ops::indexer {
namespace {

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

RaggedPlan plan_ragged(int32_t num_rows, int32_t num_keys, int32_t num_heads,
                       int32_t num_sms) noexcept {
  // Rounds of units per block that keep the last, uneven round cheap, and the fewest keys that are
  // worth loading a query tile for.
  constexpr int64_t kRounds = 4;
  constexpr int64_t kMinChunkKeys = 512;
  int64_t const row_tiles = ceil_div(num_rows, 256 / num_heads);
  int64_t const wanted = ceil_div(kRounds * num_sms, row_tiles);
  int64_t const possible = std::max<int64_t>(num_keys / kMinChunkKeys, 1);
  int64_t const chunk_keys =
      ceil_div(ceil_div(num_keys, std::min(wanted, possible)), kStageKeys) * kStageKeys;
  int64_t const chunks = ceil_div(num_keys, chunk_keys);
  RaggedPlan plan;
  plan.units = static_cast<int32_t>(row_tiles * chunks);
  plan.chunks = static_cast<int32_t>(chunks);
  plan.chunk_keys = static_cast<int32_t>(chunk_keys);
  plan.grid = std::min(plan.units, num_sms);
  return plan;
}

PagedPlan plan_paged(int32_t batch, int32_t next_n, int32_t max_context_len,
                     int32_t num_sms) noexcept {
  PagedPlan plan;
  plan.tile_rows = next_n <= 2 ? next_n : 4;
  plan.tiles_per_request = static_cast<int32_t>(ceil_div(next_n, plan.tile_rows));
  plan.row_tiles = batch * plan.tiles_per_request;
  int64_t const stages = plan.row_tiles * ceil_div(max_context_len, kStageKeys);
  plan.grid = static_cast<int32_t>(std::min<int64_t>(stages, num_sms));
  return plan;
}

}  // namespace dsa_ops::indexer
