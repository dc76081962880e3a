// From a row that a block's threads hold, and a map of its values to bins, to its indices.
#pragma once
#include <cstdint>

#include "device/ptx/mbarrier.cuh"
#include "device/ptx/shared.cuh"
#include "kernels/topk/binned/bin_map.cuh"
#include "kernels/topk/binned/select_inside.cuh"
#include "kernels/topk/binned/traits.h"
#include "kernels/topk/held_packets.cuh"
#include "kernels/topk/keys.cuh"
#include "kernels/topk/packet.cuh"
#include "kernels/topk/row_range.cuh"
#include "kernels/topk/tile_ranks.cuh"

namespace dsa_ops::topk_sm90::binned {

// Bits of the row's winners. kCounted: the bins are complete. Barriers: the counts, if not; the
// place; the listed keys, or those of select_any.
template <class Ranks, bool kCounted, class Packets>
__device__ __forceinline__ uint32_t select_by_bins(SharedStorage& shared, BinMap const& bin_of,
                                                   Packets const& packets,
                                                   float const (&values)[kThreadKeys], int length,
                                                   uint32_t top_k) {
  // Of bin 0 of the map, whose bins do not begin with 0: so that no key needs a subtraction.
  uint32_t const counts = ptx::shared_address(shared.bins) - sizeof(uint32_t) * BinMap::kFirstBin;
  uint32_t bins[kThreadKeys];
#pragma unroll
  for (int i = 0; i < kThreadKeys; ++i) {
    bins[i] = bin_of(values[i]);
    if (!kCounted) ptx::increment_shared(counts + sizeof(uint32_t) * bins[i]);
  }
  if (!kCounted) __syncthreads();
  // The first bin holds what is not of the row, too.
  Place const place = find_bin(shared, top_k);
  bool const settled = place.inside == place.rank && place.bin != 0;
  uint32_t const bin = BinMap::kFirstBin + place.bin;
  uint32_t const surely = settled ? bin : bin + 1;
  uint32_t mask = 0;
  uint32_t inside = 0;  // keys in the bin
#pragma unroll
  for (int i = 0; i < kThreadKeys; ++i) {
    set_if_from(mask, bins[i], surely, 1u << i);
    set_if_equal(inside, bins[i], bin, 1u << i);
  }
  if (!settled && place.inside <= kListedKeys && place.bin != 0) {
    uint32_t const own = __popc(inside);
    uint32_t const first = own == 0 ? 0 : atomicAdd(&shared.num_listed, own);
    // Few threads have one, and hardly any has more.
#pragma unroll 1
    for (Listed* next = &shared.listed[first]; inside != 0; inside &= inside - 1) {
      int const bit = __ffs(inside) - 1;
      float value = values[0];
#pragma unroll
      for (int i = 1; i < kThreadKeys; ++i) value = i == bit ? values[i] : value;
      *next++ = Listed{key_of(value), packets.index(bit)};
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
  return mask;
}

// Writes the best of a row of `length` logits. Barriers: those of the selection; the warps' sums.
template <LogitsType kType, bool kCounted>
__device__ __forceinline__ void write_best(KernelArgs const& args, SharedStorage& shared,
                                           BinMap const& bin_of,
                                           HeldPackets<kType, kThreadKeys> const& packets,
                                           float const (&values)[kThreadKeys], int length) {
  constexpr int kLogits = Packet<kType>::kLogits;
  using Ranks = TileRanks<kLogits, kThreadKeys / kLogits>;
  uint32_t mask = 0;
  if (!bin_of.is_crowded()) {
    mask = select_by_bins<Ranks, kCounted>(shared, bin_of, packets, values, length, args.top_k);
  } else if (!select_crowd<Ranks>(shared, values, bin_of.crowd(), args.top_k, mask)) {
    uint32_t keys[kThreadKeys];
    packets.make_keys(keys, values, length);
    __syncthreads();
    mask = select_any<Ranks>(shared, keys, args.top_k);
  }
  write_winners<Ranks, kThreads>(
      shared, mask, packets.warp_first(), SlotMap(args, opaque(blockIdx.x)),
      args.indices + int64_t{opaque(blockIdx.x)} * args.indices_row_stride);
}

}  // namespace dsa_ops::topk_sm90::binned
