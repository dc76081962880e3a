// What the launch code hands to the kernels: pointers, strides in elements, plans, tensor maps.
#pragma once
#include <cuda.h>

#include <cstdint>

#include "kernels/indexer/row_length.h"

namespace dsa_ops::indexer {

struct RaggedArgs {
  CUtensorMap query_map;  // e4m3 [rows, heads, 128]
  CUtensorMap key_map;    // e4m3 [keys, 128]
  float const* k_scale;
  float const* weights;
  int64_t weights_row_stride;
  int32_t const* row_starts;
  int32_t const* row_ends;
  float* logits;
  int64_t logits_row_stride;
  int32_t num_rows;
  int32_t num_keys;
  int32_t row_tiles;
  int32_t key_tiles;
  int32_t pieces;
  int32_t unscored_length;  // rows up to this length are not scored
};

// key_map is e4m3 [pages, 64, 128] and num_keys 64 per page id; k_scale is not used.
struct CachedArgs : RaggedArgs {
  uint8_t const* index_cache;
  int64_t page_stride_bytes;
  int32_t const* page_ids;
  int32_t num_pages;
};

// Pages that blocks take as they come: page_tickets.cuh.
inline constexpr int kTicketBits = 20;  // tickets of a row tile's pages, and each block's in vain
inline constexpr int kInverseBits = 36;
inline constexpr int32_t kNoneTaken = 0x7FFFFFFF;
struct PageTickets {
  unsigned long long* words;  // of a row tile each, whatever they hold; null: no tickets
  unsigned long long tag;     // of the launch, above kTicketBits
  uint64_t inverse;           // of the number of blocks, times 2^kInverseBits, rounded up
};

struct PagedArgs {
  CUtensorMap query_map;  // e4m3 [batch, next_n, heads, 128]
  CUtensorMap key_map;    // e4m3 [pages, 64, 128]
  uint8_t const* index_cache;
  int64_t page_stride_bytes;
  int64_t num_pages;
  float const* weights;
  int64_t weights_row_stride;
  RowLengths lengths;
  int32_t const* block_table;
  int64_t block_table_stride;
  float* logits;
  int64_t logits_row_stride;
  int32_t tiles_per_request;  // row tiles
  int32_t row_tiles;          // of all requests
  int32_t max_context_len;
  int32_t unscored_length;  // rows up to this length are not scored
  bool fill;                // columns past a row's pages become -inf
};

}  // namespace dsa_ops::indexer
