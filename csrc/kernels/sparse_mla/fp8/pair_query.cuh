// The query of a thread block's next tile, by warpgroup 0 of a pair.
#pragma once
#include "kernels/sparse_mla/fp8/pair_traits.h"
#include "kernels/sparse_mla/fp8/query.cuh"

namespace dsa_ops::sparse_mla::fp8 {

// 16 heads at a time, the rows of twice as many under way: `start` may run while the tile
// before is being finished, `complete` once its products are over.
struct PairQuery {
  static constexpr int kPass = 16;
  static constexpr int kPasses = PairTile::kHeads / kPass;

  static constexpr int kAhead = 2;

  QueryRow<1> next[kAhead];

  static __device__ __forceinline__ QueryRow<1> load(KernelArgs const& args, Tile const& tile,
                                                     int head, int position) {
    QueryRow<1> row;
    row.load(args.q + tile.row * args.q_row_stride + (tile.first_head + head) * args.q_head_stride,
             head < tile.heads, 0, position);
    return row;
  }

  __device__ __forceinline__ void start(KernelArgs const& args, Tile const& tile, int thread) {
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      next[i] = load(args, tile, (thread >> 3) + i * kPass, thread & 7);
    }
  }

  __device__ __forceinline__ void complete(SharedStorage<PairTile>& shared, KernelArgs const& args,
                                           Tile const& tile, int thread) {
    int head = thread >> 3;
#pragma unroll 1
    for (int pass = 0; pass < kPasses; ++pass, head += kPass) {
      QueryRow<1> const row = next[0];
#pragma unroll
      for (int i = 1; i < kAhead; ++i) next[i - 1] = next[i];
      if (pass + kAhead < kPasses) {
        next[kAhead - 1] = load(args, tile, head + kAhead * kPass, thread & 7);
      }
      store_query_row(shared, args, row, head, 0, thread & 7);
    }
  }
};

}  // namespace dsa_ops::sparse_mla::fp8
