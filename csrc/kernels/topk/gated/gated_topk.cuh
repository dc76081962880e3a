// indices[t, :] = ascending positions (or slots) of the top_k best of logits[t, start(t) : end(t)].
//
// A cluster of kClusterSize blocks streams one row, a contiguous slice each. A block lists the
// logits of its slice that pass a gate, the cluster selects among the lists, and each block orders
// and writes its own winners. No roles: a thread has some packets in flight, and where several
// blocks share a multiprocessor one row's loads overlap another's selection. The loads begin when
// the samples are here, which would wait behind them in the memory's queues otherwise.
//
// Shared memory: SharedStorage, 8 bytes per candidate, the bitmap, 4 * top_k. Barriers are
// described where they stand.
#pragma once
#include <cstdint>

#include "device/ptx/grid.cuh"
#include "kernels/topk/gated/steps.cuh"

namespace dsa_ops::topk_sm90::gated {

template <LogitsType kType, int kClusterSize, int kThreads, int kMinBlocks>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    gated_topk_kernel(__grid_constant__ KernelArgs const args) {
  using Storage = SharedStorage<kClusterSize, kThreads>;
  constexpr int kKeys = max_candidates(kClusterSize) / kThreads;
  extern __shared__ __align__(128) unsigned char memory[];
  Storage& shared = *reinterpret_cast<Storage*>(memory);
  Candidate* const list = reinterpret_cast<Candidate*>(memory + sizeof(Storage));

  ClusterSelect<kClusterSize, kThreads> selector(shared.select);
  touch_width(args);
  ptx::wait_for_prior_kernels();
  {
    // The samples of rows that start at zero need not wait for the row's end.
    bool const from_zero = samples_ahead(kClusterSize) && args.row_starts == nullptr;
    int32_t const row = blockIdx.x / kClusterSize;
    int32_t const end = given_end(args, row);
    RowRange range{};
    if (!from_zero) range = RowRange(args, row, end);
    auto const* const logits = static_cast<typename Packet<kType>::Element const*>(args.logits) +
                               int64_t{row} * args.logits_row_stride +
                               (from_zero ? 0 : range.start);
    Sample<kType, kThreads> sample(logits, from_zero ? args.num_columns : range.length);
    touch_slots(args);
    prepare_listing(args, shared, list, selector);
    if (from_zero) range = RowRange(args, row, end);
    Assignment<kType> const own(args, blockIdx.x, kClusterSize, range);
    if (range.length <= args.top_k) {
      selector.wait_for_cluster();
      write_whole_row<kThreads>(args, own.range, SlotMap(args, own.row), own.rank, kClusterSize,
                                args.indices + int64_t{own.row} * args.indices_row_stride);
      return;
    }
    list_passing(args, shared, list, own, sample, selector);
  }
  OrderedWinners ordered{kNotOrdered, 0};
  auto const order_ties = [&] {
    ordered =
        order_tied<kType, kClusterSize, kThreads>(args.top_k, args.capacity, args.window_words);
    return ordered.first != kNotOrdered;
  };
  if (!shared.gate.likely_tied || !order_ties()) {
    uint32_t keys[kKeys];
    uint32_t const count = settle<kType>(args, shared, list, selector, keys, order_ties);
    if (ordered.first == kNotOrdered) {
      ordered = order_selected<kClusterSize, kThreads>(args, shared, list, count, keys,
                                                       selector.verdict());
    }
  }
  write_winners<kClusterSize, kThreads>(args, shared, list, ordered);
}

}  // namespace dsa_ops::topk_sm90::gated
