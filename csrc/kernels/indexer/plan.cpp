#include "kernels/indexer/plan.h"

#include <algorithm>

#include "kernels/indexer/traits.h"

namespace dsa_ops::indexer {
namespace {

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

RaggedPlan plan_ragged(int32_t num_rows, int32_t num_keys, int32_t num_heads,
                       int32_t num_sms) noexcept {
  // Pieces per block even out what the rows' ranges make uneven; a piece must be worth loading a
  // query tile for.
  constexpr int64_t kMaxRounds = 8;
  constexpr int64_t kMinPieceTiles = 16;
  RaggedPlan plan;
  plan.row_tiles = static_cast<int32_t>(ceil_div(num_rows, kRaggedColumns / num_heads));
  plan.key_tiles = static_cast<int32_t>(ceil_div(num_keys, kStageKeys));
  int64_t const tiles = int64_t{plan.row_tiles} * plan.key_tiles;
  plan.grid = static_cast<int32_t>(std::min<int64_t>(tiles, num_sms));
  int64_t const rounds = std::clamp<int64_t>(tiles / plan.grid / kMinPieceTiles, 1, kMaxRounds);
  plan.pieces = static_cast<int32_t>(rounds * plan.grid);
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
