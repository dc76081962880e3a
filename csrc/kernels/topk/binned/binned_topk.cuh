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
#include "kernels/topk/binned/traits.h"
#include "kernels/topk/binned/write_best.cuh"
#include "kernels/topk/held_packets.cuh"
#include "kernels/topk/packet.cuh"
#include "kernels/topk/row_range.cuh"

namespace dsa_ops::topk_sm90::binned {

// A logit of the lane-th part of the row, at a scrambled place.
template <LogitsType kType, class Element>
__device__ __forceinline__ float sample_of_lane(Element const* row, int span) {
  uint32_t const part = static_cast<uint32_t>(span) / 32;
  if (part == 0) return 0;
  uint32_t const lane = threadIdx.x % 32;
  return Packet<kType>::logit(row[part * lane + __umulhi((lane + 1) * 0x9E3779B1u, part)]);
}

template <LogitsType kType>
__global__ void __launch_bounds__(kThreads)
    binned_topk_kernel(__grid_constant__ KernelArgs const args) {
  using Packets = HeldPackets<kType, kThreadKeys>;
  using Element = typename Packets::Element;
  // The last packets wait for the samples, which would come later if they did not. Microseconds
  // with 1, 2, 3, 4 float32 packets ahead: 128 x 8K 8.8, 8.8, 8.8, 9.2, 1 x 8K 7.0, 7.0, 6.9, 6.8.
  constexpr int kEarlyTiles = Packets::kTiles - 1;
  extern __shared__ __align__(128) unsigned char memory[];
  SharedStorage& shared = *reinterpret_cast<SharedStorage*>(memory);

  touch_width(args);
  ptx::wait_for_prior_kernels();
  // The loads of rows that start at zero need not wait for the row's end.
  bool const from_zero = args.row_starts == nullptr;
  int32_t const end = given_end(args, blockIdx.x);
  RowRange range{};
  if (!from_zero) range = RowRange(args, blockIdx.x, end);
  int const span = from_zero ? args.num_columns : range.length;
  Element const* const logits = static_cast<Element const*>(args.logits) +
                                int64_t{blockIdx.x} * args.logits_row_stride +
                                (from_zero ? 0 : range.start);
  float const sample = sample_of_lane<kType>(logits, span);
  Packets const packets(logits, span);
  float values[kThreadKeys];
  packets.template load_tiles<0, kEarlyTiles>(values);
  // While the loads are on their way.
  for (int i = opaque(threadIdx.x); i < kValueBins / 4; i += kThreads) {
    reinterpret_cast<uint4*>(shared.bins)[i] = make_uint4(0, 0, 0, 0);
  }
  prepare_output(args, shared);
  if (from_zero) range = RowRange(args, opaque(blockIdx.x), end);
  SampleRanks const ranks(args.top_k, range.length);
  sort_by_warps<kWarps>(shared.samples, finite(sample));
  __syncthreads();
  packets.template load_tiles<kEarlyTiles, Packets::kTiles>(values);
  if (range.length <= args.top_k) {
    write_whole_row<kThreads>(args, range, SlotMap(args, blockIdx.x), 0, 1,
                              args.indices + int64_t{blockIdx.x} * args.indices_row_stride);
    return;
  }

  BinMap const bin_of(ranks, [&](int rank) { return shared.samples[rank]; });
  packets.drop_beyond(values, range.length);
  write_best<kType, false>(args, shared, bin_of, packets, values, range.length);
}

}  // namespace dsa_ops::topk_sm90::binned
