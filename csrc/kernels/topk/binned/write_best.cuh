// From a row's counted bins to its indices.
#pragma once
#include <cstdint>

#include "kernels/topk/binned/select_inside.cuh"
#include "kernels/topk/binned/traits.h"
#include "kernels/topk/held_packets.cuh"
#include "kernels/topk/keys.cuh"
#include "kernels/topk/packet.cuh"
#include "kernels/topk/row_range.cuh"
#include "kernels/topk/tile_ranks.cuh"

namespace dsa_ops::topk_sm90::binned {

// Writes the best of a row of `length` logits, whose values and bins (of BinMap) the threads hold;
// shared.place is the bin of the top_k-th best. Barriers: where keys of that bin are told apart,
// those of it; the sums of the warps.
template <LogitsType kType>
__device__ __forceinline__ void write_best(KernelArgs const& args, SharedStorage& shared,
                                           HeldPackets<kType, kThreadKeys> const& packets,
                                           float const (&values)[kThreadKeys],
                                           uint32_t const (&bins)[kThreadKeys], int length) {
  constexpr int kLogits = Packet<kType>::kLogits;
  using Ranks = TileRanks<kLogits, kThreadKeys / kLogits>;
  // The first bin holds what is not of the row, too.
  Place const place = shared.place;
  bool const settled = place.inside == place.rank && place.bin != 0;
  uint32_t const bin = BinMap::kFirstBin + place.bin;
  uint32_t const surely = settled ? bin : bin + 1;
  uint32_t mask = 0;
  uint32_t own = 0;  // keys in the bin
#pragma unroll
  for (int i = 0; i < kThreadKeys; ++i) {
    mask |= bins[i] >= surely ? 1u << i : 0;
    own += bins[i] == bin ? 1 : 0;
  }
  if (!settled && place.inside <= kListedKeys && place.bin != 0) {
    uint32_t const first = own == 0 ? 0 : atomicAdd(&shared.num_listed, own);
    if (own != 0) {  // few threads have one
      Listed* next = &shared.listed[first];
#pragma unroll
      for (int i = 0; i < kThreadKeys; ++i) {
        if (bins[i] == bin) *next++ = Listed{key_of(values[i]), packets.index(i)};
      }
    }
    __syncthreads();
    rank_listed(shared, place, first, own, [&](int index) { mask |= packets.bit(index); });
  } else if (!settled) {
    uint32_t keys[kThreadKeys];
#pragma unroll
    for (int i = 0; i < kThreadKeys; ++i) {
      bool const inside = bins[i] == bin && packets.holds(i, length);
      keys[i] = inside ? key_of(values[i]) : kNoKey;
    }
    mask |= select_any<Ranks>(shared, keys, place.rank);
  }
  write_winners<Ranks, kThreads>(
      shared, mask, packets.warp_first(), SlotMap(args, opaque(blockIdx.x)),
      args.indices + int64_t{opaque(blockIdx.x)} * args.indices_row_stride);
}

}  // namespace dsa_ops::topk_sm90::binned
