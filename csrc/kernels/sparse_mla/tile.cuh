// Where a thread block works: 64 heads of one row, or all heads of the rows of a pack.
#pragma once
#include "kernels/sparse_mla/kernel_args.h"
#include "kernels/sparse_mla/producer.cuh"
#include "kernels/sparse_mla/traits.h"

namespace dsa_ops::sparse_mla {

struct Tile {
  int64_t row;
  int rows;  // of a pack that attend together, 1 without a pack, 0: nothing to do
  int first_head;
  int heads;  // that exist, of every row
  int split;
};

// Thread blocks of a launch with packs: one per pack, for its rows together or for its first row,
// then one for every other row, which ends at once if its pack attends together. That comes last,
// where multiprocessors run out of work anyway.
__device__ __forceinline__ uint32_t num_packs(KernelArgs const& args) {
  return static_cast<uint32_t>((args.num_rows + args.pack_rows - 1) / args.pack_rows);
}

// Read anew at every call: kept from the start to the end of a thread block it would cost registers
// that the loop needs.
__device__ __forceinline__ uint32_t block_index() {
  uint32_t block;
  asm volatile("mov.u32 %0, %%ctaid.x;" : "=r"(block));
  return block;
}

__device__ __forceinline__ uint32_t pack_of_block(KernelArgs const& args) {
  uint32_t const packs = num_packs(args), block = block_index();
  return block < packs ? block : (block - packs) / (args.pack_rows - 1);
}

__device__ __forceinline__ Tile tile_of_block(KernelArgs const& args, UnionHeader const& header) {
  uint32_t const block = block_index();
  if (args.pack_rows > 1) {
    uint32_t const packs = num_packs(args), pack = pack_of_block(args);
    uint32_t const first_row = pack * args.pack_rows;
    int const rows = min(args.pack_rows, static_cast<int>(args.num_rows - first_row));
    if (block < packs) return {first_row, header.length ? rows : 1, 0, args.num_heads, 0};
    uint32_t const row = 1 + block - packs - pack * (args.pack_rows - 1);
    return {first_row + row, header.length || row >= rows ? 0 : 1, 0, args.num_heads, 0};
  }
  uint32_t const tile = block / args.num_splits;
  uint32_t const row = tile / args.head_tiles;
  int const first_head = (tile - row * args.head_tiles) * kTileHeads;
  return {row, 1, first_head, min(kTileHeads, args.num_heads - first_head),
          static_cast<int>(block - tile * args.num_splits)};
}

__device__ __forceinline__ IndexList index_list(KernelArgs const& args, UnionHeader const& header,
                                                Tile const& tile) {
  if (tile.rows > 1) {
    auto const* entries = args.union_entries + int64_t{pack_of_block(args)} * args.union_capacity;
    return {reinterpret_cast<int32_t const*>(entries),
            header.length,
            (header.length + kBlockTokens - 1) / kBlockTokens,
            0,
            0,
            static_cast<uint32_t>(header.first_key),
            0xFFFFFF};
  }
  int length = args.top_k;
  if (args.topk_lens) length = min(length, max(args.topk_lens[tile.row], 0));
  int const first = tile.split * args.blocks_per_split * kBlockTokens;
  length = min(max(length - first, 0), args.blocks_per_split * kBlockTokens);
  return {args.indices + tile.row * args.indices_row_stride + first,
          length,
          (length + kBlockTokens - 1) / kBlockTokens,
          static_cast<uint32_t>(min(args.num_keys, int64_t{1} << 31)),
          -1,
          0,
          0xFFFFFFFF};
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
