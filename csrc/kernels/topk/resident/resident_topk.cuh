// indices[t, :] = ascending positions (or slots) of the top_k best of logits[t, start(t) : end(t)].
//
// A cluster of kClusterSize blocks takes one row, a block one contiguous slice of it, whose keys
// its threads hold in registers: a logit is read once, and all loads are in flight at once. They
// begin when the samples are here, which would wait behind them otherwise. A sample gives an
// interval of keys, the cluster selects the k-th best from there, each block compacts its own
// winners. No roles and no pipeline.
//
// Registers: kThreadKeys for keys. Shared memory: SharedStorage. Barriers are described where they
// stand.
#pragma once
#include <cstdint>

#include "device/ptx/grid.cuh"
#include "kernels/topk/cluster_select.cuh"
#include "kernels/topk/guess.cuh"
#include "kernels/topk/held_packets.cuh"
#include "kernels/topk/keys.cuh"
#include "kernels/topk/resident/sample.cuh"
#include "kernels/topk/resident/traits.h"
#include "kernels/topk/resident/warp_list.cuh"
#include "kernels/topk/row_range.cuh"

namespace dsa_ops::topk_sm90::resident {

template <LogitsType kType>
__global__ void __launch_bounds__(kThreads)
    resident_topk_kernel(__grid_constant__ KernelArgs const args) {
  using P = Packet<kType>;
  using Element = typename P::Element;
  extern __shared__ __align__(128) unsigned char memory[];
  SharedStorage& shared = *reinterpret_cast<SharedStorage*>(memory);

  int32_t const row = blockIdx.x / kClusterSize;
  int const rank = blockIdx.x % kClusterSize;
  touch_width(args);
  ptx::wait_for_prior_kernels();

  // Rows that start at zero are cut by the width of the logits, so that their loads need not wait
  // for the row's end.
  bool const from_zero = args.row_starts == nullptr;
  int32_t const end = given_end(args, row);
  RowRange range{};
  if (!from_zero) range = RowRange(args, row, end);
  int const span = from_zero ? args.num_columns : range.length;
  Element const* const logits = static_cast<Element const*>(args.logits) +
                                int64_t{row} * args.logits_row_stride +
                                (from_zero ? 0 : range.start);
  RowSample<kType> const sample(logits, span);
  HeldPackets<kType, kThreadKeys> const packets(logits, span, rank, kClusterSize);
  touch_slots(args);
  // While the loads are on their way.
  ClusterSelect<kClusterSize, kThreads> selector(shared.select, args.top_k);
  prepare_guess<kThreads>(shared.bins);
  if (from_zero) range = RowRange(args, opaque(blockIdx.x) / kClusterSize, end);
  selector.wait_for_cluster();
  __syncthreads();

  if (range.length <= args.top_k) {
    write_whole_row<kThreads>(args, range, SlotMap(args, row), rank, kClusterSize,
                              args.indices + int64_t{row} * args.indices_row_stride);
    return;
  }
  int const valid = min(range.length - packets.begin, packets.count);
  float values[kThreadKeys];
  Interval interval =
      sample.guess(shared.bins, range.length, span, args.top_k, [&] { packets.load(values); });
  // No NaN passes any gate: they and -inf, one key, are not told apart by one above both.
  interval.low = max(interval.low, kWorstKey + 1);
  interval.range = ~interval.low;
  packets.drop_beyond(values, valid);
  WarpList<kType> list(shared);
  bool listed = interval.shift != 0;  // else a crowd of equal keys would be
  if (listed) {
    list.fill(values, logit_of(interval.low));
    listed = selector.select_visited([&](auto const& take) { list.visit(take); }, interval);
  }
  int32_t const own_row = opaque(blockIdx.x) / kClusterSize;
  SlotMap const slot(args, own_row);
  int32_t* const indices = args.indices + int64_t{own_row} * args.indices_row_stride;
  int const warp_position = packets.begin + packets.warp_first();
  if (listed) {
    Verdict const verdict = selector.verdict();
    write_listed(shared, list, verdict, warp_position, slot, indices + first_winner(verdict));
    return;
  }
  uint32_t keys[kThreadKeys];
  packets.make_keys(keys, values, valid);
  while (!selector.select(keys, interval)) continue;
  Verdict const verdict = selector.verdict();
  using Ranks = typename WarpList<kType>::Ranks;
  uint32_t const mask = winner_mask<Ranks, kThreads>(shared.warp_values[0], keys, verdict);
  write_winners<Ranks, kThreads>(shared, mask, warp_position, slot,
                                 indices + first_winner(verdict));
}

}  // namespace dsa_ops::topk_sm90::resident
