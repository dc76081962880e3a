// What the launches of the fused selection carry.
#pragma once
#include <cstdint>

#include "kernels/indexer/args.h"
#include "kernels/topk/fused/traits.h"
#include "kernels/topk/traits.h"

namespace dsa_ops::topk_sm90::fused {

struct WorkArgs {
  ScanWork* work;        // of each scan
  int32_t* tile_begins;  // [scans][scan_tiles + 1]: key tiles before a row tile
  int32_t* first_tiles;  // [scans][grid]: row tile in which a block's share begins
  int32_t scan_tiles;    // row tiles of a scan, but the last
  int32_t grid;          // blocks of a scan
};

// Row tiles with rows that the lists do not settle.
struct RedoArgs {
  int32_t* count;
  int32_t* tiles;  // [count]
  int32_t* rows;   // [row tiles]: a bit per row of the tile
};

// num_keys, and the columns of the logits, are those of the sample.
struct SampleArgs : indexer::RaggedArgs {
  int32_t row_keys;  // that the rows' ranges are of
};

struct GateArgs {
  indexer::RaggedArgs ranges;  // rows and keys of the call
  WorkArgs work;
  RedoArgs redo;
  RowGate* gates;
  float const* samples;
  int64_t samples_row_stride;
  int32_t num_scans;
  int32_t top_k;
};

// `logits` is not used. Rows are those of one scan.
struct ScanArgs : indexer::RaggedArgs {
  RowGate const* gates;  // [num_rows]
  ScanWork const* work;
  int32_t const* tile_begins;
  int32_t const* first_tiles;
  uint8_t* lists;    // [num_rows][math warp][capacity][16 lanes], candidates with positions as keys
  uint16_t* counts;  // [num_rows][part][list]
  int32_t capacity;  // of a list
};

struct SelectArgs {
  KernelArgs topk;  // of all rows of the call
  RowGate const* gates;
  Candidate const* lists;
  uint16_t const* counts;
  RedoArgs redo;
  int32_t first_row;       // of the scan, in the call
  int32_t first_tile_row;  // of the scan, in the row tiles of `redo`
  int32_t list_capacity;
};

// The indexer's `logits` are a scratch, with kTileRows rows of a cluster.
struct RescoreArgs : indexer::RaggedArgs {
  KernelArgs topk;
  RedoArgs redo;
  int32_t first_row;  // of the row tiles, in `topk`
};

}  // namespace dsa_ops::topk_sm90::fused
