// The winners' positions in ascending order: each thread marks the winners among 32 consecutive
// keys, a block scan ranks them.
#pragma once
#include <cstdint>

#include "kernels/topk/block_scan.cuh"
#include "kernels/topk/resident/select.cuh"
#include "kernels/topk/resident/slice.cuh"
#include "kernels/topk/resident/traits.h"

namespace dsa_ops::topk_sm90::resident {

// Which keys of a group beat or equal the threshold; bit i is key i.
struct Marks {
  uint32_t greater = 0;
  uint32_t equal = 0;
};

// Keys >= first_greater win, keys in [threshold, first_greater) tie.
__device__ __forceinline__ Marks mark_group(uint4 const* key_quads, int group, uint32_t threshold,
                                            uint32_t first_greater) {
  Marks marks;
#pragma unroll
  for (int i = 0; i < kGroupKeys / 4; ++i) {
    uint4 const quad = key_quads[swizzled_quad(group * (kGroupKeys / 4) + i)];
    uint32_t const keys[4] = {quad.x, quad.y, quad.z, quad.w};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (keys[j] >= first_greater) marks.greater |= 1u << (4 * i + j);
      if (keys[j] >= threshold) marks.equal |= 1u << (4 * i + j);
    }
  }
  marks.equal &= ~marks.greater;
  return marks;
}

struct Winners {
  int first;  // rank of this block's first winner in the row
  int count;
};

// Writes this block's winning positions to `winners` (shared memory), in order. `slice_begin` is
// the position of the slice's first logit. The caller synchronises before reading them.
template <LogitsType kType>
__device__ __forceinline__ Winners compact(SharedStorage& shared, uint4* key_quads,
                                           Slice<kType> const& slice, int resident,
                                           Selection const& selection, int slice_begin,
                                           int32_t* winners) {
  constexpr int kPacketKeys = Slice<kType>::kPacketKeys;
  constexpr int kTilePackets = kTileKeys / kPacketKeys;
  // A settled bin wins as a whole; otherwise its keys are equal and the first `ties` of them win.
  bool const settled = selection.settled;
  uint32_t const first_greater = selection.threshold + (settled ? 0 : 1);
  uint32_t const ties = settled ? 0 : selection.remaining;
  uint32_t const equal_before = settled ? 0 : selection.equal_before;
  uint32_t const ties_before = min(equal_before, ties);
  uint32_t greater = 0;
  uint32_t equal = equal_before;

  for (int tile_begin = 0, tile = 0; tile_begin < slice.keys; tile_begin += kTileKeys, ++tile) {
    uint4* tile_quads = key_quads + tile_begin / 4;
    if (tile_begin >= resident) {
      // All threads have passed the scan of the tile that lay here before, after reading its keys.
      tile_quads = key_quads + resident / 4;
      int const end = min((tile + 1) * kTilePackets, slice.keys / kPacketKeys);
      visit_packets(slice, tile * kTilePackets, end, [&](int quad, uint4 keys) {
        tile_quads[swizzled_quad(quad - tile_begin / 4)] = keys;
      });
      __syncthreads();
    }
    int const group = threadIdx.x;
    Marks marks;
    if (tile_begin + group * kGroupKeys < slice.keys) {
      marks = mark_group(tile_quads, group, selection.threshold, first_greater);
    }
    // Greater in the low half, equal in the high half; at most 16,384 each.
    static_assert(kTileKeys < 65536);
    BlockSum const counts =
        sum_block(shared.warp_totals[tile % 2], __popc(marks.greater) | __popc(marks.equal) << 16);
    uint32_t rank = greater + (counts.before & 0xFFFF);
    uint32_t equal_rank = equal + (counts.before >> 16);
    int const group_begin = slice_begin - slice.shift + tile_begin + group * kGroupKeys;
    uint32_t candidates = marks.greater | (equal_rank < ties ? marks.equal : 0);
    while (candidates != 0) {
      int const bit = __ffs(candidates) - 1;
      candidates &= candidates - 1;
      bool const is_equal = marks.equal >> bit & 1;
      if (!is_equal || equal_rank < ties) {
        winners[rank + min(equal_rank, ties) - ties_before] = group_begin + bit;
      }
      rank += is_equal ? 0 : 1;
      equal_rank += is_equal ? 1 : 0;
    }
    greater += counts.total & 0xFFFF;
    equal += counts.total >> 16;
  }
  uint32_t const first =
      selection.greater_before + (settled ? selection.equal_before : ties_before);
  return Winners{static_cast<int>(first),
                 static_cast<int>(greater + min(equal, ties) - ties_before)};
}

}  // namespace dsa_ops::topk_sm90::resident
