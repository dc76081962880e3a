// Winners in ascending order: of the candidates through a bitmap of positions, of a whole row by
// reading it in order.
#pragma once
#include <cstdint>

#include "kernels/topk/block_scan.cuh"
#include "kernels/topk/gated/row.cuh"
#include "kernels/topk/gated/select.cuh"
#include "kernels/topk/gated/traits.h"
#include "kernels/topk/keys.cuh"

namespace dsa_ops::topk_sm90::gated {

// Reads the row from its start and calls emit(rank, position) for the first `ties` keys in
// [threshold, first_greater) and, unless kTiesOnly, the keys from `first_greater` on, until
// `wanted` are found. Returns how many were. One barrier per tile.
template <bool kTiesOnly, LogitsType kType, class Emit>
__device__ __forceinline__ uint32_t scan_in_order(SharedStorage& shared, Row<kType> const& row,
                                                  uint32_t first_greater, uint32_t threshold,
                                                  uint32_t ties, uint32_t wanted,
                                                  Emit const& emit) {
  constexpr int kWords = 4;
  constexpr int kWarpLogits = 32 * kWords;
  constexpr int kScanLogits = kWarps * kWarpLogits;
  int const lane = threadIdx.x % 32;
  int const warp = threadIdx.x / 32;
  uint32_t const below_lane = (1u << lane) - 1;
  uint32_t greater = 0;
  uint32_t equal = 0;
  int32_t const num_tiles = (row.length - 1) / kScanLogits + 1;
#pragma unroll 1
  for (int32_t tile = 0; tile < num_tiles && greater + min(equal, ties) < wanted; ++tile) {
    int32_t const tile_begin = tile * kScanLogits;
    uint32_t greater_words[kWords];
    uint32_t equal_words[kWords];
    uint32_t counts = 0;  // greater in the low half, equal in the high half; at most 4,096 each
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      int32_t const offset = warp * kWarpLogits + i * 32 + lane;
      uint32_t const key = offset < row.length - tile_begin ? key_of(row[tile_begin + offset]) : 0;
      greater_words[i] = __ballot_sync(kAllLanes, key >= first_greater);
      equal_words[i] = __ballot_sync(kAllLanes, key >= threshold) & ~greater_words[i];
      if (kTiesOnly) greater_words[i] = 0;
      counts += __popc(greater_words[i]) | __popc(equal_words[i]) << 16;
    }
    BlockSum const sum = sum_block(shared.warp_totals[tile % 2], lane == 0 ? counts : 0);
    uint32_t const before = __shfl_sync(kAllLanes, sum.before, 0);
    uint32_t greater_before = greater + (before & 0xFFFF);
    uint32_t equal_before = equal + (before >> 16);
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      uint32_t const equal_rank = equal_before + __popc(equal_words[i] & below_lane);
      bool const ties_in = equal_words[i] >> lane & 1 && equal_rank < ties;
      if (ties_in || greater_words[i] >> lane & 1) {
        emit(greater_before + __popc(greater_words[i] & below_lane) + min(equal_rank, ties),
             tile_begin + warp * kWarpLogits + i * 32 + lane);
      }
      greater_before += __popc(greater_words[i]);
      equal_before += __popc(equal_words[i]);
    }
    greater += sum.total & 0xFFFF;
    equal += sum.total >> 16;
  }
  return greater + min(equal, ties);
}

// Bit w of the bitmap lies at a place that keeps threads which walk several words each apart.
__device__ __forceinline__ uint32_t bitmap_place(uint32_t word) { return word + word / 32; }

__device__ __forceinline__ void clear_bitmap(uint32_t* bitmap, int num_words) {
  for (int i = threadIdx.x; i < num_words + num_words / 32; i += kThreads) bitmap[i] = 0;
}

// Writes the candidates at or above the threshold to `winners` in ascending order, a window of the
// bitmap at a time. The bitmap's first clearing needs no barrier before, but the caller's last
// candidates do. Barriers of a window: the cleared bitmap; the set bits; the block sum.
__device__ __forceinline__ void order_winners(SharedStorage& shared, uint32_t* bitmap,
                                              int window_words, Candidates const& candidates,
                                              Threshold const& threshold, int32_t length,
                                              int32_t* winners) {
  uint32_t emitted = 0;
  uint32_t const row_words = (static_cast<uint32_t>(length) + 31) / 32;
  int window = 0;
#pragma unroll 1
  for (uint32_t first_word = 0; first_word < row_words; first_word += window_words, ++window) {
    uint32_t const num_words = min(row_words - first_word, static_cast<uint32_t>(window_words));
    __syncthreads();
    for (int i = threadIdx.x; i < candidates.count; i += kThreads) {
      uint32_t const key = candidates.keys[i];
      uint32_t const position = candidates.positions[i];
      uint32_t const word = position / 32 - first_word;
      bool const wins =
          key > threshold.key || (key == threshold.key && position <= threshold.position);
      if (wins && word < num_words) atomicOr(&bitmap[bitmap_place(word)], 1u << position % 32);
    }
    __syncthreads();
    uint32_t const words_per_thread = (num_words + kThreads - 1) / kThreads;
    uint32_t const begin = min(threadIdx.x * words_per_thread, num_words);
    uint32_t const end = min(begin + words_per_thread, num_words);
    uint32_t count = 0;
    for (uint32_t word = begin; word < end; ++word) count += __popc(bitmap[bitmap_place(word)]);
    BlockSum const sum = sum_block(shared.warp_totals[window % 2], count);
    uint32_t rank = emitted + sum.before;
    for (uint32_t word = begin; word < end && count > 0; ++word) {
      uint32_t bits = bitmap[bitmap_place(word)];
      bitmap[bitmap_place(word)] = 0;
      while (bits != 0) {
        winners[rank++] = (first_word + word) * 32 + __ffs(bits) - 1;
        bits &= bits - 1;
      }
    }
    emitted += sum.total;
  }
}

}  // namespace dsa_ops::topk_sm90::gated
