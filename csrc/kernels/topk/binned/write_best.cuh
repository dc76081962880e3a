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

// The bin wins as a whole. The first bin holds what is not of the row, too.
__device__ __forceinline__ bool is_settled(Place const& place) {
  return place.inside == place.rank && place.bin != 0;
}
__device__ __forceinline__ bool is_listed(Place const& place) {
  return place.inside <= kListedKeys && place.bin != 0;
}

// Winners of a warp, and how many the lower warps have.
template <class Ranks>
struct Winners {
  uint32_t mask;
  Ranks ranks;
  uint32_t first;

  // One barrier.
  __device__ __forceinline__ Winners(SharedStorage& shared, uint32_t winner_mask)
      : mask(winner_mask),
        ranks(winner_mask),
        first(sum_of_lower_warps<kThreads>(shared.warp_values[1], ranks.total())) {}
};

// values[index], by choices and not in memory.
template <int kCount>
__device__ __forceinline__ float value_at(float const (&values)[kCount], int index) {
  if constexpr (kCount == 1) {
    return values[0];
  } else {
    float half[kCount / 2];
#pragma unroll
    for (int i = 0; i < kCount / 2; ++i) {
      half[i] = (index & kCount / 2) != 0 ? values[i + kCount / 2] : values[i];
    }
    return value_at(half, index);
  }
}

// Counts the keys in bins, and sets the bits of those in the bins above that of the top_k-th best,
// or of all from that on if it wins as a whole. Else lists the bin's keys, if they are few.
// Barriers: the counts, unless kCounted; the place.
template <bool kCounted, class Packets>
__device__ __forceinline__ Place count_in_bins(SharedStorage& shared, BinMap const& bin_of,
                                               Packets const& packets,
                                               float const (&values)[kThreadKeys], uint32_t top_k,
                                               uint32_t& mask) {
  // Of bin 0 of the map, whose bins do not begin with 0: so that no key needs a subtraction.
  uint32_t const counts = ptx::shared_address(shared.bins) - sizeof(uint32_t) * BinMap::kFirstBin;
  uint32_t bins[kThreadKeys];
#pragma unroll
  for (int i = 0; i < kThreadKeys; ++i) {
    bins[i] = bin_of(values[i]);
    if (!kCounted) ptx::increment_shared(counts + sizeof(uint32_t) * bins[i]);
  }
  if (!kCounted) __syncthreads();
  Place const place = find_bin(shared, top_k);
  bool const settled = is_settled(place);
  uint32_t const bin = BinMap::kFirstBin + place.bin;
  uint32_t const surely = settled ? bin : bin + 1;
  uint32_t inside = 0;  // keys in the bin
#pragma unroll
  for (int i = 0; i < kThreadKeys; ++i) {
    set_if_from(mask, bins[i], surely, 1u << i);
    set_if_equal(inside, bins[i], bin, 1u << i);
  }
  if (settled || !is_listed(place)) inside = 0;
  if (inside != 0) {  // few threads have one, and hardly any has more
    uint32_t next = atomicAdd(&shared.num_listed, __popc(inside));
#pragma unroll 1
    for (; inside != 0; inside &= inside - 1) {
      int const bit = __ffs(inside) - 1;
      shared.listed[next++] = listed_as(value_at(values, bit), packets.index(bit) + packets.shift);
    }
  }
  return place;
}

// Has what the end needs of the arguments in shared memory: a line of constants that is not cached
// costs a trip. The caller synchronises the block between this and write_best().
__device__ __forceinline__ void prepare_output(KernelArgs const& args, SharedStorage& shared) {
  if (threadIdx.x != 0) return;
  shared.num_listed = 0;
  shared.output =
      Output{args.indices + int64_t{opaque(blockIdx.x)} * args.indices_row_stride,
             args.row_offsets == nullptr ? 0 : args.row_offsets[opaque(blockIdx.x)], args.to_slots};
}

// Writes the best of a row of `length` logits. Barriers: those of the selection; the warps' sums.
template <LogitsType kType, bool kCounted>
__device__ __forceinline__ void write_best(KernelArgs const& args, SharedStorage& shared,
                                           BinMap const& bin_of,
                                           HeldPackets<kType, kThreadKeys> const& packets,
                                           float const (&values)[kThreadKeys], int length) {
  constexpr int kLogits = Packet<kType>::kLogits;
  using Ranks = TileRanks<kLogits, kThreadKeys / kLogits>;
  bool const crowded = bin_of.crowd().exists;
  uint32_t mask = 0;
  Place place{0, static_cast<uint32_t>(args.top_k), 0};
  bool done;
  if (!crowded) {
    place = count_in_bins<kCounted>(shared, bin_of, packets, values, args.top_k, mask);
    done = is_settled(place) || is_listed(place);
  } else {
    done = select_crowd<Ranks>(shared, values, bin_of.crowd().value, args.top_k, mask);
  }
  if (!done) {
    uint32_t keys[kThreadKeys];
#pragma unroll
    for (int i = 0; i < kThreadKeys; ++i) {
      bool const inside = crowded || bin_of(values[i]) == BinMap::kFirstBin + place.bin;
      keys[i] = inside && packets.holds(i, length) ? key_of(values[i]) : kNoKey;
    }
    __syncthreads();
    mask |= select_any<Ranks>(shared, keys, place.rank);
  }
  Winners<Ranks> winners(shared, mask);
  if (!crowded && !is_settled(place) && is_listed(place)) {
    take_listed(shared, place, winners.ranks, winners.mask, winners.first);
  }
  Output const output = shared.output;
  gather_winners(shared, winners.mask, winners.ranks);
  uint32_t const count = winners.ranks.total();
  int32_t* const indices = output.indices + winners.first;
  if (output.to_slots) {
    write_gathered(shared, count, packets.warp_first(), SlotMap(args, opaque(blockIdx.x)), indices);
  } else {
    write_gathered(shared, count, packets.warp_first(), SlotMap(output.offset), indices);
  }
}

}  // namespace dsa_ops::topk_sm90::binned
