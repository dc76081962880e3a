// Where a thread block works: 64 heads of one row, or all heads of the rows of a pack.
#pragma once
#include "kernels/sparse_mla/kernel_args.h"
#include "kernels/sparse_mla/producer.cuh"
#include "kernels/sparse_mla/traits.h"

namespace dsa_ops::sparse_mla {

struct Tile {
  int64_t row;  // of a pack the first
  int rows;     // of a pack that attend together, 1 without a pack, 0: nothing to do
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

// Thread blocks of a launch with packs: one per pack, for its rows together or for its first row,
// then one for every other row, which ends at once if its pack attends together (thousands of them
// cost microseconds, and they come last, where multiprocessors run out of work). A launch that
// repairs has one for every row, in the same order.
struct PackPosition {
  uint32_t pack;
  uint32_t member;

  __device__ __forceinline__ explicit PackPosition(KernelArgs const& args) {
    uint32_t const packs = gridDim.x / args.pack_rows, block = block_index();
    pack = block < packs ? block : (block - packs) / (args.pack_rows - 1);
    member = block < packs ? 0 : 1 + block - packs - pack * (args.pack_rows - 1);
  }
};

__device__ __forceinline__ Tile pack_tile(KernelArgs const& args, int union_length) {
  PackPosition const at(args);
  int64_t const row = int64_t{at.pack} * args.pack_rows + at.member;
  int rows = at.member == 0 || union_length <= 0 ? 1 : 0;
  if (args.repairs) {
    rows = union_length < 0 ? 1 : 0;
  } else if (at.member == 0 && union_length > 0) {
    rows = static_cast<int>(min(int64_t{args.pack_rows}, args.num_rows - row));
  }
  return {row, row < args.num_rows ? rows : 0, 0, args.num_heads, 0};
}

__device__ __forceinline__ Tile tile_of_block(KernelArgs const& args, int union_length) {
  if (args.pack_rows > 1) return pack_tile(args, union_length);
  uint32_t const block = block_index();
  uint32_t const tile = block / args.num_splits;
  uint32_t const row = tile / args.head_tiles;
  int const first_head = (tile - row * args.head_tiles) * kTileHeads;
  return {row, 1, first_head, min(kTileHeads, args.num_heads - first_head),
          static_cast<int>(block - tile * args.num_splits)};
}

__device__ __forceinline__ IndexList index_list(KernelArgs const& args, int union_length,
                                                Tile const& tile) {
  uint32_t const num_keys = static_cast<uint32_t>(min(args.num_keys, int64_t{1} << 31));
  if (tile.rows > 1) {
    int64_t const first = tile.row / args.pack_rows * args.unions.capacity;
    return {args.unions.keys + first, args.unions.members + first, union_length,
            union_length / kBlockTokens, num_keys};
  }
  int length = args.top_k;
  if (args.topk_lens) length = min(length, max(args.topk_lens[tile.row], 0));
  int const first = tile.split * args.blocks_per_split * kBlockTokens;
  length = min(max(length - first, 0), args.blocks_per_split * kBlockTokens);
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
