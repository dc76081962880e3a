#include "kernels/indexer/plan.h"

#include <algorithm>

#include "kernels/indexer/traits.h"
#include "kernels/rounding.h"

namespace dsa_ops::indexer {

RaggedPlan plan_ragged(int32_t num_rows, int32_t num_keys, int32_t num_heads,
                       int32_t num_sms) noexcept {
  // Pieces per block even out what the rows' ranges make uneven; a piece must be worth loading a
  // query tile for. Pieces of half a row tile would give one block all the halves that causal rows
  // do not see, so they are about as long as one; an even number of rounds balances a trend.
  constexpr int64_t kMinRounds = 4;
  constexpr int64_t kMaxRounds = 8;
  constexpr int64_t kMinPieceTiles = 16;
  RaggedPlan plan;
  plan.row_tiles = static_cast<int32_t>(ceil_div(num_rows, kRaggedColumns / num_heads));
  plan.key_tiles = static_cast<int32_t>(ceil_div(num_keys, kStageKeys));
  int64_t const tiles = int64_t{plan.row_tiles} * plan.key_tiles;
  plan.grid = static_cast<int32_t>(std::min<int64_t>(tiles, num_sms));
  int64_t const row_tile_rounds =
      std::clamp(2 * ceil_div(plan.row_tiles, 2 * plan.grid), kMinRounds, kMaxRounds);
  int64_t const rounds =
      std::clamp<int64_t>(tiles / plan.grid / kMinPieceTiles, 1, row_tile_rounds);
  plan.pieces = static_cast<int32_t>(rounds * plan.grid);
  return plan;
}

PagedPlan plan_paged(int32_t batch, int32_t next_n, int32_t num_heads, int32_t max_context_len,
                     int32_t num_sms, bool alone) noexcept {
  PagedPlan plan;
  plan.tile_rows = next_n <= 2 ? next_n : 4;
  plan.tiles_per_request = static_cast<int32_t>(ceil_div(next_n, plan.tile_rows));
  plan.row_tiles = batch * plan.tiles_per_request;
  int32_t const columns = plan.tile_rows * num_heads;
  int64_t const pages = plan.row_tiles * ceil_div(max_context_len, kPageKeys);
  int64_t const slots = int64_t{num_sms} * (alone ? 1 : paged_blocks_per_sm(columns));
  plan.grid = static_cast<int32_t>(std::min(ceil_div(pages, paged_warpgroups(columns)), slots));
  return plan;
}

}  // namespace dsa_ops::indexer
