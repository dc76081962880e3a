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
#include "kernels/topk/candidates.cuh"
#include "kernels/topk/cluster_select.cuh"
#include "kernels/topk/gated/collect.cuh"
#include "kernels/topk/gated/gate.cuh"
#include "kernels/topk/gated/traits.h"
#include "kernels/topk/keys.cuh"
#include "kernels/topk/row_range.cuh"
#include "kernels/topk/row_slice.cuh"

namespace dsa_ops::topk_sm90::gated {

// What a block reads of its row. Made anew where it is needed again, so that it takes no registers
// through everything in between.
template <LogitsType kType>
struct Assignment {
  using Element = typename Slice<kType>::Element;

  int32_t row;
  int rank;
  RowRange range;
  Element const* logits;  // of the row's range
  int slice_begin;
  Slice<kType> slice;

  __device__ __forceinline__ Assignment(KernelArgs const& args, uint32_t block, int cluster_size)
      : row(block / cluster_size),
        rank(block % cluster_size),
        range(args, row),
        logits(static_cast<Element const*>(args.logits) + int64_t{row} * args.logits_row_stride +
               range.start),
        slice_begin(rank * slice_length(range.length, cluster_size)),
        slice(logits + slice_begin,
              max(min(range.length - slice_begin, slice_length(range.length, cluster_size)), 0)) {}
};

inline constexpr uint32_t kBeyondCapacity = ~0u;

template <LogitsType kType, int kClusterSize, int kThreads, int kMinBlocks>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    gated_topk_kernel(__grid_constant__ KernelArgs const args) {
  using Storage = SharedStorage<kClusterSize, kThreads>;
  constexpr int kKeys = max_candidates(kClusterSize) / kThreads;
  extern __shared__ __align__(128) unsigned char memory[];
  Storage& shared = *reinterpret_cast<Storage*>(memory);
  Candidate* const list = reinterpret_cast<Candidate*>(memory + sizeof(Storage));

  ClusterSelect<kClusterSize, kThreads> selector(shared.select);
  ptx::wait_for_prior_kernels();
  {
    Assignment<kType> const own(args, blockIdx.x, kClusterSize);
    if (own.range.length <= args.top_k) {
      write_whole_row<kThreads>(args, own.range, SlotMap(args, own.row), own.rank, kClusterSize,
                                args.indices + int64_t{own.row} * args.indices_row_stride);
      return;
    }
    Sample<kType, kThreads> const sample(own.logits, own.range.length);
    selector.prepare(args.top_k);
    clear_bins<kThreads>(shared.bins);
    clear_bitmap<kThreads>(reinterpret_cast<uint32_t*>(list + args.capacity), args.window_words);
    if (threadIdx.x == 0) shared.num_candidates = 0;
    Stream<kType, kThreads, packets_in_flight(kType, kClusterSize)> stream;
    Gate const gate = find_gate(shared.bins, shared.warp_sums, sample, args.top_k,
                                [&] { stream.begin(own.slice); });
    if (threadIdx.x == 0) shared.gate = gate;
    __syncthreads();
    collect(CandidateStore{list, &shared.num_candidates, static_cast<uint32_t>(args.capacity)},
            own.slice, stream, logit_of(gate.key));
    __syncthreads();
  }

  // If too few pass the gate, the tie beneath it may fill up the lists; if that does not do, and
  // where more pass than a list takes, a block lists the best of its slice.
  uint32_t const low = shared.gate.key;
  Interval interval{low, ~low, round_shift(shared.gate.high - low)};
  uint32_t keys[kKeys];
  uint32_t count = shared.num_candidates;
  selector.wait_for_cluster();
#pragma unroll 1
  while (true) {
    if (count > static_cast<uint32_t>(args.capacity)) {
      Assignment<kType> const own(args, opaque(blockIdx.x), kClusterSize);
      count = list_best<kThreads>(shared, list, own.slice, args.top_k);
      __syncthreads();
    }
    load_keys<kThreads>(keys, list, count);
    auto const visit = [&](auto const& take) {
      visit_held<kThreads, kKeys, 2>(count, [&](int i) {
        uint32_t const pair[2] = {keys[i], keys[i + 1]};
        take(pair);
      });
    };
    if (selector.select_visited(visit, interval)) break;
    count = kBeyondCapacity;
    if (shared.gate.above_tie) {
      Assignment<kType> const own(args, opaque(blockIdx.x), kClusterSize);
      uint32_t const tie = shared.gate.key - 1;
      count = shared.num_candidates;
      count += list_ties<kThreads>(shared, list, count, own.slice, tie, selector.remaining());
      __syncthreads();
      if (threadIdx.x == 0) shared.gate.above_tie = false;
      interval = Interval{tie, 0, 0};
    }
  }

  Assignment<kType> const own(args, opaque(blockIdx.x), kClusterSize);
  Verdict const verdict = selector.verdict();
  uint32_t* const bitmap = reinterpret_cast<uint32_t*>(list + opaque(args.capacity));
  int32_t* const winners =
      reinterpret_cast<int32_t*>(bitmap + args.window_words + args.window_words / 32);
  WinnerRule const rule =
      winner_rule<kThreads>(shared.bins, shared.warp_sums[0], list, keys, verdict, own.slice.count);
  uint32_t const number = order_winners<kThreads>(shared.warp_sums, bitmap, args.window_words, list,
                                                  count, keys, rule, own.slice.count, winners);
  __syncthreads();
  int32_t* const indices = args.indices + int64_t{own.row} * args.indices_row_stride;
  uint32_t const first = first_winner(verdict);
  SlotMap const slot(args, own.row);
  for (uint32_t i = threadIdx.x; i < number; i += kThreads) {
    indices[first + i] = slot(own.slice_begin + winners[i]);
  }
}

}  // namespace dsa_ops::topk_sm90::gated
