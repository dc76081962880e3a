// Where a thread block works: 64 heads of one row, or all heads of the rows of a pack, and one part
// of an index list.
#pragma once
#include "kernels/sparse_mla/bf16/traits.h"
#include "kernels/sparse_mla/kernel_args.h"

namespace dsa_ops::sparse_mla::bf16 {

struct TileRow;

template <class Source>
struct Tile {
  int64_t row;  // of a pack the first
  int rows;     // of a pack; 1 without a pack
  bool packed;
  int first_head;
  int heads;  // of every row, that exist
  int split;
  int32_t const* entries;
  uint8_t const* members;  // of a union's entries, else null
  int length;              // entries at and after it are empty
  int num_pairs;           // of blocks

  __device__ __forceinline__ Tile(KernelArgs const& args, uint32_t index) {
    if constexpr (Source::kPacks) {
      of_pack(args, args.tiles[index]);
    } else {
      of_row(args, index);
    }
    num_pairs = (length + 2 * kBlockTokens - 1) / (2 * kBlockTokens);
  }

  // Of partial results.
  __device__ __forceinline__ int64_t part(KernelArgs const& args, TileRow const& at) const;

  __device__ __forceinline__ static int list_length(KernelArgs const& args, int64_t row) {
    return args.topk_lens ? min(args.top_k, max(__ldg(args.topk_lens + row), 0)) : args.top_k;
  }

 private:
  __device__ __forceinline__ void of_pack(KernelArgs const& args, PackTile const& tile) {
    packed = tile.row < 0;
    row = packed ? int64_t{~tile.row} * args.pack_rows : tile.row;
    rows = packed ? static_cast<int>(min(int64_t{args.pack_rows}, args.num_rows - row)) : 1;
    first_head = split = 0;
    heads = args.num_heads;
    int64_t const first = int64_t{~tile.row} * args.unions.capacity;
    entries = packed ? args.unions.keys + first : args.indices + row * args.indices_row_stride;
    members = packed ? args.unions.members + first : nullptr;
    length = packed ? tile.length : list_length(args, row);
  }

  __device__ __forceinline__ void of_row(KernelArgs const& args, uint32_t index) {
    uint32_t const part = Source::kPaged ? index / args.num_splits : index;
    uint32_t const r = part >> (args.head_tiles - 1);  // of one tile or two
    row = r;
    rows = 1;
    packed = false;
    first_head = (part - r * args.head_tiles) * kTileHeads;
    heads = min(kTileHeads, args.num_heads - first_head);
    split = index - part * (Source::kPaged ? args.num_splits : 1);
    int const part_length = Source::kPaged ? args.blocks_per_split * kBlockTokens : args.top_k;
    int const first = split * part_length;
    entries = args.indices + row * args.indices_row_stride + first;
    members = nullptr;
    length = min(max(list_length(args, row) - first, 0), part_length);
  }
};

// What a row of the tile stands for. A thread's accumulators belong to rows r and r + 8; pairs of
// them are dealt to the rows of a pack, so that a thread has one row's masks to read.
struct TileRow {
  int member;  // row of the pack
  int head;
  bool exists;

  template <class Source>
  __device__ __forceinline__ TileRow(Tile<Source> const& tile, int row) {
    int const pairs = (tile.heads + 1) / 2;
    int const pair = (row >> 4) * 8 + (row & 7);
    member = Source::kPacks ? pair / pairs : pair >= pairs;
    int const offset = pair - member * pairs + (row >> 3 & 1) * pairs;
    head = tile.first_head + offset;
    exists = member < tile.rows && offset < tile.heads;
  }
};

template <class Source>
__device__ __forceinline__ int64_t Tile<Source>::part(KernelArgs const& args,
                                                      TileRow const& at) const {
  return (row * args.num_splits + split) * args.num_heads + at.head;
}

// Tiles of the launch; with packs, places of the list of tiles.
template <class Source>
__device__ __forceinline__ uint32_t num_tiles(KernelArgs const& args) {
  if constexpr (Source::kPacks) {
    uint32_t const packs = (args.num_rows + args.pack_rows - 1) / args.pack_rows;
    return packs * args.pack_rows;
  }
  return static_cast<uint32_t>(args.num_rows) * args.head_tiles * args.num_splits;
}

// The first place from `index` on, in this thread block's steps, where there is something to do; at
// least num_tiles if there is none. For whole warps, which look at 32 places at a time.
template <class Source>
__device__ __forceinline__ uint32_t next_tile(KernelArgs const& args, uint32_t index,
                                              uint32_t tiles) {
  if constexpr (!Source::kPacks) return index;
  int const lane = threadIdx.x & 31;
  for (; index < tiles; index += 32 * gridDim.x) {
    uint32_t const own = index + lane * gridDim.x;
    bool const works = own < tiles && args.tiles[own].length >= 0;
    uint32_t const vote = __ballot_sync(0xFFFFFFFFu, works);
    if (vote) return index + (__ffs(vote) - 1) * gridDim.x;
  }
  return tiles;
}

}  // namespace dsa_ops::sparse_mla::bf16
