// From a row that a block's threads hold, and a map of its values to buckets, to its indices.
#pragma once
#include <cstdint>

#include "kernels/topk/binned/buckets.cuh"
#include "kernels/topk/binned/select_inside.cuh"
#include "kernels/topk/binned/traits.h"
#include "kernels/topk/held_packets.cuh"
#include "kernels/topk/keys.cuh"
#include "kernels/topk/packet.cuh"
#include "kernels/topk/row_range.cuh"
#include "kernels/topk/tile_ranks.cuh"

namespace dsa_ops::topk_sm90::binned {

// Winners of a thread: bits of those that surely are, and of equal ones, of which the block's first
// `ties` are, too.
struct Winning {
  uint32_t sure = 0;
  uint32_t equal = 0;
  uint32_t ties = 0;
};

__device__ __forceinline__ Winning winning_from(Threshold const& threshold,
                                                float const (&values)[kThreadKeys]) {
  Winning winning;
#pragma unroll
  for (int i = 0; i < kThreadKeys; ++i) {
    set_if_not_below(winning.sure, values[i], threshold.logit, 1u << i);
  }
  winning.ties = threshold.ties;
  if (winning.ties != 0) {
#pragma unroll
    for (int i = 0; i < kThreadKeys; ++i) {
      winning.equal |= values[i] == threshold.logit ? 1u << i : 0;
    }
    winning.sure ^= winning.equal;
  }
  return winning;
}

// Bits of the `place.rank` best of the logits in a bucket that does not keep all of its own, and of
// those above; of all logits if it has none inside. Barriers: one, and those of select_any().
template <class Ranks, class Packets>
__device__ __forceinline__ uint32_t mask_of_any(SharedStorage& shared, BucketMap const& map,
                                                Packets const& packets,
                                                float const (&values)[kThreadKeys], int length,
                                                Place const& place) {
  float const bucket = BucketMap::kFirst + static_cast<float>(place.bin);
  bool const everywhere = place.inside == 0;
  uint32_t mask = 0;
  uint32_t keys[kThreadKeys];
#pragma unroll
  for (int i = 0; i < kThreadKeys; ++i) {
    float const at = map(values[i]);
    if (!everywhere && at > bucket) mask |= 1u << i;
    bool const counts = (everywhere || at == bucket) && packets.holds(i, length);
    keys[i] = counts ? key_of(values[i]) : kNoKey;
  }
  __syncthreads();
  return mask | select_any<Ranks>(shared, keys, place.rank);
}

// Writes the `count` winners that a warp has gathered, from the row's index `first` on.
template <class Packets>
__device__ __forceinline__ void write_from(KernelArgs const& args, SharedStorage& shared,
                                           Packets const& packets, uint32_t count, uint32_t first) {
  Output const output = shared.output;
  int32_t* const indices = output.indices + first;
  if (output.to_slots) {
    write_gathered(shared, count, packets.warp_first(), SlotMap(args, opaque(blockIdx.x)), indices);
  } else {
    write_gathered(shared, count, packets.warp_first(), SlotMap(output.offset), indices);
  }
}

// Writes the winners in order. One barrier: the warps' sums.
template <class Ranks, class Packets>
__device__ __forceinline__ void write_winning(KernelArgs const& args, SharedStorage& shared,
                                              Packets const& packets, Winning const& winning) {
  int const lane = threadIdx.x % 32;
  int const warp = threadIdx.x / 32;
  uint32_t mask = winning.sure;
  uint32_t count = __reduce_add_sync(kAllLanes, __popc(mask));
  uint32_t (&sums)[kWarps] = shared.warp_values[1];
  uint32_t first;
  if (winning.ties == 0) {
    if (lane == 0) sums[warp] = count;
    gather_winners(shared, mask, Ranks(mask));
    __syncthreads();
    first = __reduce_add_sync(kAllLanes, lane < warp ? sums[lane] : 0);
  } else {  // what equals in the high half of a sum
    Ranks const ranks(winning.equal);
    if (lane == 0) sums[warp] = count | ranks.total() << 16;
    __syncthreads();
    uint32_t const lower = __reduce_add_sync(kAllLanes, lane < warp ? sums[lane] : 0);
    uint32_t const equal_before = lower >> 16;
    ranks.visit(winning.equal, [&](int bit, uint32_t rank) {
      if (equal_before + rank < winning.ties) mask |= 1u << bit;
    });
    first = (lower & 0xFFFF) + min(equal_before, winning.ties);
    count = __reduce_add_sync(kAllLanes, __popc(mask));
    gather_winners(shared, mask, Ranks(mask));
  }
  write_from(args, shared, packets, count, first);
}

// Writes the best of a row of `length` logits. Barriers: the logits' counts; those of a crowd or of
// a crowded bucket; the warps' sums.
template <LogitsType kType>
__device__ __forceinline__ void write_kept(KernelArgs const& args, BucketStorage& shared,
                                           BucketMap const& map,
                                           HeldPackets<kType, kThreadKeys> const& packets,
                                           float const (&values)[kThreadKeys], int length) {
  constexpr int kLogits = Packet<kType>::kLogits;
  using Ranks = TileRanks<kLogits, kThreadKeys / kLogits>;
  int const lane = threadIdx.x % 32;
  Winning winning;
  Place place{0, static_cast<uint32_t>(args.top_k), 0};
  bool done = false;
  if (!map.crowd().exists) {
    uint32_t const above = __reduce_add_sync(kAllLanes, fill_buckets<kLogits>(shared, map, values));
    if (lane == 0) shared.above[threadIdx.x / 32] = above;
    __syncthreads();
    int const all_above = __reduce_add_sync(kAllLanes, lane < kWarps ? shared.above[lane] : 0);
    Place const found = find_bucket(shared, args.top_k - all_above);
    done = found.inside - 1 < kBucketKeys;
    if (done) {
      winning = winning_from(find_threshold(shared, found), values);
    } else if (found.inside != 0) {
      place = found;
    }
  } else {
    done = select_crowd<Ranks>(shared.select, values, map.crowd().value, args.top_k, winning.sure);
  }
  if (__builtin_expect(!done, 0)) {
    winning.sure = mask_of_any<Ranks>(shared.select, map, packets, values, length, place);
  }
  write_winning<Ranks>(args, shared.select, packets, winning);
}

}  // namespace dsa_ops::topk_sm90::binned
