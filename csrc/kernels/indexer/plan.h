// Launch choices as pure functions of shapes and the device, so that a captured graph stays valid
// when lengths change.
#pragma once
#include <cstdint>

namespace dsa_ops::indexer {

struct RaggedPlan {
  int32_t grid;
  int32_t row_tiles;
  int32_t key_tiles;  // of 128 keys
  int32_t pieces;     // equal cuts of row tiles x key tiles: a multiple of the grid
};
RaggedPlan plan_ragged(int32_t num_rows, int32_t num_keys, int32_t num_heads,
                       int32_t num_sms) noexcept;

struct PagedPlan {
  int32_t grid;
  int32_t tile_rows;          // 1, 2 or 4 rows of a request scored at once
  int32_t tiles_per_request;  // row tiles
  int32_t row_tiles;
};
// `alone`: one block per multiprocessor, so that no more of them are occupied.
PagedPlan plan_paged(int32_t batch, int32_t next_n, int32_t num_heads, int32_t max_context_len,
                     int32_t num_sms, bool alone) noexcept;

}  // namespace dsa_ops::indexer
