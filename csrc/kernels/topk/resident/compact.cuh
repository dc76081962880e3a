// A block's winners in ascending order: block sums rank those of each thread.
#pragma once
#include <cstdint>

#include "kernels/topk/block_scan.cuh"
#include "kernels/topk/cluster_select.cuh"

namespace dsa_ops::topk_sm90::resident {

// A thread's keys come in tiles of kTileKeys neighbours, tile i from packet threadIdx.x + i *
// kThreads, so that winners are in the order of the tiles and, within a tile, of the threads. Two
// tiles' counts share a word.
constexpr int tile_words(int tiles) { return (tiles + 1) / 2; }

template <int kThreads, int kTileKeys, int kKeys>
struct TileSums {
  static constexpr int kTiles = kKeys / kTileKeys;
  using Sums = BlockSums<kThreads, tile_words(kTiles)>;
  Sums sums{};

  template <class Counts>
  __device__ __forceinline__ void add(typename Sums::WarpSums& warp_sums,
                                      uint32_t const (&keys)[kKeys], Counts const& counts) {
    uint32_t words[tile_words(kTiles)] = {};
#pragma unroll
    for (int i = 0; i < kKeys; ++i) {
      int const tile = i / kTileKeys;
      words[tile / 2] += counts(keys[i]) ? 1u << 16 * (tile % 2) : 0;
    }
    sums = Sums(warp_sums, words);
  }
  // In lower threads, and in all.
  __device__ __forceinline__ uint32_t before(int tile) const {
    return sums.before[tile / 2] >> 16 * (tile % 2) & 0xFFFF;
  }
  __device__ __forceinline__ uint32_t total(int tile) const {
    return sums.total[tile / 2] >> 16 * (tile % 2) & 0xFFFF;
  }
};

// Writes the positions of the winners to `winners` (shared memory), in order, and returns their
// number. Key j of packet p lies at first_position + p * kTileKeys + j. The caller synchronises
// before reading them. All keys from the threshold on win.
template <int kThreads, int kTileKeys, int kKeys, class WarpSums>
__device__ __forceinline__ uint32_t compact_settled(WarpSums (&warp_sums)[2],
                                                    uint32_t const (&keys)[kKeys],
                                                    uint32_t threshold, int first_position,
                                                    int32_t* winners) {
  using Tiles = TileSums<kThreads, kTileKeys, kKeys>;
  int const thread = static_cast<int>(threadIdx.x);
  Tiles winning;
  winning.add(warp_sums[0], keys, [&](uint32_t key) { return key >= threshold; });
  uint32_t total = 0;
#pragma unroll
  for (int tile = 0; tile < Tiles::kTiles; ++tile) {
    int32_t* place = winners + total + winning.before(tile);
    int const position = first_position + (tile * kThreads + thread) * kTileKeys;
#pragma unroll
    for (int i = 0; i < kTileKeys; ++i) {
      if (keys[tile * kTileKeys + i] >= threshold) *place++ = position + i;
    }
    total += winning.total(tile);
  }
  return total;
}

// The same where the first `ties` keys equal to the threshold win, and those above it.
template <int kThreads, int kTileKeys, int kKeys, class WarpSums>
__device__ __forceinline__ uint32_t compact_tied(WarpSums (&warp_sums)[2],
                                                 uint32_t const (&keys)[kKeys],
                                                 Verdict const& verdict, int first_position,
                                                 int32_t* winners) {
  using Tiles = TileSums<kThreads, kTileKeys, kKeys>;
  int const thread = static_cast<int>(threadIdx.x);
  uint32_t const threshold = verdict.threshold;
  uint32_t const ties = verdict.ties;
  uint32_t const ties_before = min(verdict.equal_before, ties);
  Tiles greater;
  greater.add(warp_sums[0], keys, [&](uint32_t key) { return key > threshold; });
  Tiles equal;
  equal.add(warp_sums[1], keys, [&](uint32_t key) { return key == threshold; });
  uint32_t greater_total = 0;
  uint32_t equal_total = verdict.equal_before;
#pragma unroll
  for (int tile = 0; tile < Tiles::kTiles; ++tile) {
    uint32_t rank = greater_total + greater.before(tile);
    uint32_t equal_rank = equal_total + equal.before(tile);
    int const position = first_position + (tile * kThreads + thread) * kTileKeys;
#pragma unroll
    for (int i = 0; i < kTileKeys; ++i) {
      uint32_t const key = keys[tile * kTileKeys + i];
      if (key > threshold || (key == threshold && equal_rank < ties)) {
        winners[rank + min(equal_rank, ties) - ties_before] = position + i;
      }
      rank += key > threshold ? 1 : 0;
      equal_rank += key == threshold ? 1 : 0;
    }
    greater_total += greater.total(tile);
    equal_total += equal.total(tile);
  }
  return greater_total + min(equal_total, ties) - ties_before;
}

}  // namespace dsa_ops::topk_sm90::resident
