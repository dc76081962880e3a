// How the row tiles of a scan are shared out, worked out on the device from the rows' ranges.
#pragma once
#include <cstdint>

#include "kernels/indexer/ragged_keys.cuh"
#include "kernels/topk/block_scan.cuh"
#include "kernels/topk/fused/args.h"

namespace dsa_ops::topk_sm90::fused {

template <int kThreads>
struct WorkStorage {
  uint32_t warp_sums[2][1][kThreads / 32];
  int32_t longest;
};

// Tiles of keys between the first and the last that a row of the tile scores.
__device__ __forceinline__ int32_t key_tiles(indexer::RaggedArgs const& ranges, int32_t first_row) {
  int32_t begin = ranges.num_keys;
  int32_t end = 0;
  for (int32_t row = first_row; row < min(first_row + kTileRows, ranges.num_rows); ++row) {
    indexer::RowRange const range = indexer::FlatKeys::range(ranges, row);
    if (range.end <= range.begin) continue;
    begin = min(begin, range.begin);
    end = max(end, range.end);
  }
  if (end <= begin) return 0;
  begin = begin / indexer::FlatKeys::kScanAlignment * indexer::FlatKeys::kScanAlignment;
  return (end - begin + indexer::kStageKeys - 1) / indexer::kStageKeys;
}

// Fills `args` for one scan, by a block. A share is no shorter than any row tile, so that none is
// cut twice.
template <int kThreads>
__device__ void share_out(indexer::RaggedArgs const& ranges, WorkArgs const& args,
                          WorkStorage<kThreads>& shared, int32_t scan) {
  int const thread = threadIdx.x;
  int32_t const row_tiles = (ranges.num_rows + kTileRows - 1) / kTileRows;
  int32_t const first = scan * args.scan_tiles;
  int32_t const tiles = min(row_tiles - first, args.scan_tiles);
  int32_t* const begins = args.tile_begins + scan * (args.scan_tiles + 1);
  int32_t total = 0;
  int32_t longest = 1;
  if (thread == 0) shared.longest = 1;
  for (int32_t base = 0, step = 0; base < tiles; base += kThreads, ++step) {
    int32_t const tile = base + thread;
    int32_t const count = tile < tiles ? key_tiles(ranges, (first + tile) * kTileRows) : 0;
    uint32_t const counts[1] = {static_cast<uint32_t>(count)};
    BlockSums<kThreads, 1> const sums(shared.warp_sums[step % 2], counts);
    if (tile < tiles) begins[tile] = total + static_cast<int32_t>(sums.before[0]);
    total += static_cast<int32_t>(sums.total[0]);
    longest = max(longest, count);
  }
  atomicMax(&shared.longest, longest);
  if (thread == 0) begins[tiles] = total;
  __syncthreads();
  int32_t const share = max((total + args.grid - 1) / args.grid, shared.longest);
  if (thread == 0) args.work[scan] = ScanWork{total, share};
  for (int32_t tile = thread; tile < tiles; tile += kThreads) {
    for (int32_t block = (begins[tile] + share - 1) / share; block * share < begins[tile + 1];
         ++block) {
      args.first_tiles[scan * args.grid + block] = tile;
    }
  }
}

}  // namespace dsa_ops::topk_sm90::fused
