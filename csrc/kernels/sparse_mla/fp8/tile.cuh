// Where a thread block works.
#pragma once
#include "device/ptx/mbarrier.cuh"
#include "kernels/sparse_mla/fp8/traits.h"
#include "kernels/sparse_mla/kernel_args.h"

namespace dsa_ops::sparse_mla::fp8 {

// The part of a row's index list that this thread block works on.
struct IndexList {
  int32_t const* entries;
  int32_t length;      // entries at and after it are empty
  int32_t num_blocks;  // of 64 entries
  uint32_t num_keys;   // at most 2^31, above every index

  // An entry of a block as it stands in the list, negative past its end.
  __device__ __forceinline__ int32_t entry(int block, int offset) const {
    int const position = block * kBlockTokens + offset;
    return position < length ? __ldg(entries + position) : -1;
  }

  __device__ __forceinline__ bool is_key(int32_t entry) const {
    return static_cast<uint32_t>(entry) < num_keys;
  }
};

// A head's row of a panel is 128 bytes; its 16-byte chunk c lies at chunk c ^ (head & 7).
__device__ __forceinline__ uint32_t swizzled_chunk(int head, int chunk) {
  return static_cast<uint32_t>(head * 128 + ((chunk ^ (head & 7)) << 4));
}

struct Tile {
  int64_t row;
  int first_head;
  int heads;  // of the tile that exist
  int split;
};

__device__ __forceinline__ int split_of_block() {
  uint32_t split;
  asm volatile("mov.u32 %0, %%ctaid.z;" : "=r"(split));
  return static_cast<int>(split);
}

// Read anew at every call: the loops have no register for it.
__device__ __forceinline__ int thread_index() {
  int thread;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
  return thread;
}

// A warp's arrival on a barrier, once all its lanes have come here.
__device__ __forceinline__ void release(uint64_t* barrier) {
  __syncwarp();
  if ((thread_index() & 31) == 0) ptx::mbarrier_arrive(barrier);
}

// Worked out anew at every call: kept from the start to the end of a tile it would cost registers
// that the loop needs.
template <int kHeads>
__device__ __forceinline__ Tile tile_of(KernelArgs const& args, uint32_t number) {
  // Most launches have one tile of heads: spare them the division.
  uint32_t const row = args.head_tiles == 1 ? number : number / args.head_tiles;
  int const first_head = (number - row * args.head_tiles) * kHeads;
  return {row, first_head, min(kHeads, args.num_heads - first_head), split_of_block()};
}

// Of a launch with a thread block for every tile and split: the grid is head tiles, rows and
// splits, so that no division finds the row.
template <int kHeads>
__device__ __forceinline__ Tile only_tile(KernelArgs const& args) {
  int const first_head = static_cast<int>(blockIdx.x) * kHeads;
  return {blockIdx.y, first_head, min(kHeads, args.num_heads - first_head), split_of_block()};
}

// A thread block's first tile, and where there are more than thread blocks, how far its next is.
__device__ __forceinline__ uint32_t first_tile() {
  uint32_t block;
  asm volatile("mov.u32 %0, %%ctaid.x;" : "=r"(block));
  return block;
}
__device__ __forceinline__ uint32_t tile_step() {
  uint32_t blocks;
  asm volatile("mov.u32 %0, %%nctaid.x;" : "=r"(blocks));
  return blocks;
}

// A place in the ring of stages and in that of probabilities, carried from tile to tile.
template <int kStages>
struct RingPlace {
  int stage = 0;
  uint32_t stage_parity = 0;
  uint32_t block = 0;  // of all tiles

  __device__ __forceinline__ int buffer() const { return block & 1; }
  __device__ __forceinline__ uint32_t buffer_parity() const { return block >> 1 & 1; }
  __device__ __forceinline__ void advance() {
    ++block;
    if (++stage == kStages) {
      stage = 0;
      stage_parity ^= 1;
    }
  }
};

__device__ __forceinline__ IndexList index_list(KernelArgs const& args, Tile const& tile) {
  int length = args.top_k;
  if (args.topk_lens) length = min(length, max(args.topk_lens[tile.row], 0));
  int const first = tile.split * args.blocks_per_split * kBlockTokens;
  length = min(max(length - first, 0), args.blocks_per_split * kBlockTokens);
  return {args.indices + tile.row * args.indices_row_stride + first, length,
          (length + kBlockTokens - 1) / kBlockTokens,
          static_cast<uint32_t>(min(args.num_keys, int64_t{1} << 31))};
}

}  // namespace dsa_ops::sparse_mla::fp8
