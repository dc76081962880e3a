// indices[t, :] = ascending positions (or slots) of the top_k best of logits[t, start(t) : end(t)].
//
// A block takes one row, which its threads hold in registers: a logit is read once, and all loads
// are in flight at once. Every warp has the same 32 samples of the row, whose order gives a map of
// values to bins before the row is here, so that each logit is counted once, by two multiplications
// and an atomic. Bins above that of the k-th best win; the few keys of that bin are ranked.
//
// Registers: two words per key. Shared memory: SharedStorage. Barriers are described where they
// stand.
#pragma once
#include <cstdint>

#include "device/ptx/grid.cuh"
#include "kernels/topk/binned/bin_map.cuh"
#include "kernels/topk/binned/select_inside.cuh"
#include "kernels/topk/binned/traits.h"
#include "kernels/topk/held_packets.cuh"
#include "kernels/topk/keys.cuh"
#include "kernels/topk/packet.cuh"
#include "kernels/topk/row_range.cuh"
#include "kernels/topk/tile_ranks.cuh"

namespace dsa_ops::topk_sm90::binned {

// A logit of the lane-th part of the row, at a scrambled place.
template <LogitsType kType, class Element>
__device__ __forceinline__ float sample_of_lane(Element const* row, int span) {
  uint32_t const part = static_cast<uint32_t>(span) / 32;
  if (part == 0) return 0;
  uint32_t const lane = threadIdx.x % 32;
  return Packet<kType>::logit(row[part * lane + __umulhi((lane + 1) * 0x9E3779B1u, part)]);
}

// Bits of the row's winners. Barriers: the counts; the place; the listed keys, or those of
// select_any.
template <class Ranks, class Packets>
__device__ __forceinline__ uint32_t select_by_bins(SharedStorage& shared, BinMap const& bin_of,
                                                   Packets const& packets,
                                                   float const (&values)[kThreadKeys], int length,
                                                   uint32_t top_k) {
  uint32_t bins[kThreadKeys];
#pragma unroll
  for (int i = 0; i < kThreadKeys; ++i) {
    bins[i] = bin_of(values[i]);
    atomicAdd(&shared.bins[bins[i] - BinMap::kFirstBin], 1u);
  }
  __syncthreads();
  // The first bin holds what is not of the row, too.
  Place const place = find_bin(shared, top_k);
  bool const settled = place.inside == place.rank && place.bin != 0;
  uint32_t const bin = BinMap::kFirstBin + place.bin;
  uint32_t const surely = settled ? bin : bin + 1;
  uint32_t mask = 0;
  uint32_t inside = 0;  // keys in the bin
#pragma unroll
  for (int i = 0; i < kThreadKeys; ++i) {
    mask |= bins[i] >= surely ? 1u << i : 0;
    inside |= bins[i] == bin ? 1u << i : 0;
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

template <LogitsType kType>
__global__ void __launch_bounds__(kThreads)
    binned_topk_kernel(__grid_constant__ KernelArgs const args) {
  using Packets = HeldPackets<kType, kThreadKeys>;
  using Element = typename Packets::Element;
  constexpr int kLogits = Packet<kType>::kLogits;
  using Ranks = TileRanks<kLogits, kThreadKeys / kLogits>;
  extern __shared__ __align__(128) unsigned char memory[];
  SharedStorage& shared = *reinterpret_cast<SharedStorage*>(memory);

  ptx::wait_for_prior_kernels();
  // The loads of rows that start at zero need not wait for the row's end.
  bool const from_zero = args.row_starts == nullptr;
  RowRange range{};
  if (!from_zero) range = RowRange(args, blockIdx.x);
  int const span = from_zero ? args.num_columns : range.length;
  Element const* const logits = static_cast<Element const*>(args.logits) +
                                int64_t{blockIdx.x} * args.logits_row_stride +
                                (from_zero ? 0 : range.start);
  float const sample = sample_of_lane<kType>(logits, span);
  Packets const packets(logits, span, 0, 1);
  float values[kThreadKeys];
  packets.load(values);
  // While the loads are on their way.
  for (int i = opaque(threadIdx.x); i < kValueBins / 4; i += kThreads) {
    reinterpret_cast<uint4*>(shared.bins)[i] = make_uint4(0, 0, 0, 0);
  }
  if (threadIdx.x == 0) shared.num_listed = 0;
  if (from_zero) range = RowRange(args, opaque(blockIdx.x));
  __syncthreads();
  if (range.length <= args.top_k) {
    write_whole_row<kThreads>(args, range, SlotMap(args, blockIdx.x), 0, 1,
                              args.indices + int64_t{blockIdx.x} * args.indices_row_stride);
    return;
  }

  BinMap const bin_of(sample, args.top_k, range.length);
  packets.drop_beyond(values, range.length);
  uint32_t mask = 0;
  if (!bin_of.is_crowded()) {
    mask = select_by_bins<Ranks>(shared, bin_of, packets, values, range.length, args.top_k);
  } else if (!select_crowd<Ranks>(shared, values, bin_of.crowd(), args.top_k, mask)) {
    uint32_t keys[kThreadKeys];
    packets.make_keys(keys, values, range.length);
    __syncthreads();
    mask = select_any<Ranks>(shared, keys, args.top_k);
  }
  write_winners<Ranks, kThreads>(
      shared, mask, packets.warp_first(), SlotMap(args, opaque(blockIdx.x)),
      args.indices + int64_t{opaque(blockIdx.x)} * args.indices_row_stride);
}

}  // namespace dsa_ops::topk_sm90::binned
