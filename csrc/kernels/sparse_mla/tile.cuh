// Where a thread block works: 64 heads of one row, or all heads of the rows of a pack.
#pragma once
#include "kernels/sparse_mla/kernel_args.h"
#include "kernels/sparse_mla/producer.cuh"
#include "kernels/sparse_mla/traits.h"

namespace dsa_ops::sparse_mla {

struct Tile {
  int64_t row;  // of a pack the first
  int rows;     // of a pack; 1 without a pack, 0: nothing to do
  bool packed;
  int first_head;
  int heads;  // of every row, that exist
  int split;
};

// Read anew at every call: kept from the start to the end of a thread block it would cost registers
// that the loop needs.
__device__ __forceinline__ uint32_t block_index() {
  uint32_t block;
  asm volatile("mov.u32 %0, %%ctaid.x;" : "=r"(block));
  return block;
}

__device__ __forceinline__ Tile tile_of_block(KernelArgs const& args, PackTile const& pack_tile) {
  if (args.pack_rows > 1) {
    bool const packed = pack_tile.row < 0;
    int64_t const row = packed ? int64_t{~pack_tile.row} * args.pack_rows : pack_tile.row;
    int rows = packed ? static_cast<int>(min(int64_t{args.pack_rows}, args.num_rows - row)) : 1;
    if (pack_tile.length < 0) rows = 0;
    return {row, rows, packed, 0, args.num_heads, 0};
  }
  uint32_t const block = block_index();
  uint32_t const tile = block / args.num_splits;
  uint32_t const row = tile / args.head_tiles;
  int const first_head = (tile - row * args.head_tiles) * kTileHeads;
  return {row,
          1,
          false,
          first_head,
          min(kTileHeads, args.num_heads - first_head),
          static_cast<int>(block - tile * args.num_splits)};
}

__device__ __forceinline__ int list_length(KernelArgs const& args, int64_t row) {
  return args.topk_lens ? min(args.top_k, max(args.topk_lens[row], 0)) : args.top_k;
}

__device__ __forceinline__ IndexList index_list(KernelArgs const& args, PackTile const& pack_tile,
                                                Tile const& tile) {
  uint32_t const num_keys = static_cast<uint32_t>(min(args.num_keys, int64_t{1} << 31));
  if (tile.packed) {
    int64_t const first = int64_t{~pack_tile.row} * args.unions.capacity;
    return {args.unions.keys + first, args.unions.members + first, pack_tile.length,
            pack_tile.length / kBlockTokens, num_keys};
  }
  int const first = tile.split * args.blocks_per_split * kBlockTokens;
  int const length =
      min(max(list_length(args, tile.row) - first, 0), args.blocks_per_split * kBlockTokens);
  return {args.indices + tile.row * args.indices_row_stride + first, nullptr, length,
          (length + kBlockTokens - 1) / kBlockTokens, num_keys};
}

// What a row of the tile stands for. A thread's accumulators belong to rows r and r + 8; pairs of
// them are dealt to the rows of a pack, so that a thread has one row's masks to read.
struct TileRow {
  int member;  // row of the pack
  int head;
  bool exists;

  __device__ __forceinline__ TileRow(Tile const& tile, int row) {
    int const pairs = (tile.heads + 1) / 2;
    int const pair = (row >> 4) * 8 + (row & 7);
    member = pair / pairs;
    int const offset = pair - member * pairs + (row >> 3 & 1) * pairs;
    head = tile.first_head + offset;
    exists = member < tile.rows && offset < tile.heads;
  }
};

}  // namespace dsa_ops::sparse_mla
