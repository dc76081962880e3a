// The steps of the gated selection by which a block turns its slice of a row into winners.
#pragma once
#include <cstdint>

#include "kernels/topk/candidates.cuh"
#include "kernels/topk/cluster_select.cuh"
#include "kernels/topk/gated/collect.cuh"
#include "kernels/topk/gated/gate.cuh"
#include "kernels/topk/gated/tied.cuh"
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
      : Assignment(args, block, cluster_size, RowRange(args, block / cluster_size)) {}
  __device__ __forceinline__ Assignment(KernelArgs const& args, uint32_t block, int cluster_size,
                                        RowRange const& row_range)
      : row(block / cluster_size),
        rank(block % cluster_size),
        range(row_range),
        logits(static_cast<Element const*>(args.logits) + int64_t{row} * args.logits_row_stride +
               range.start),
        slice_begin(rank * slice_length(range.length, cluster_size)),
        slice(logits + slice_begin,
              max(min(range.length - slice_begin, slice_length(range.length, cluster_size)), 0)) {}
};

inline constexpr uint32_t kBeyondCapacity = ~0u;

// Before the barrier that list_passing() has first.
template <int kClusterSize, int kThreads, class Storage>
__device__ __forceinline__ void prepare_listing(KernelArgs const& args, Storage& shared,
                                                Candidate* list,
                                                ClusterSelect<kClusterSize, kThreads>& selector) {
  prepare_tally<kClusterSize>(shared);
  selector.prepare(args.top_k);
  clear_bins<kThreads>(shared.bins);
  clear_bitmap<kThreads>(reinterpret_cast<uint32_t*>(list + args.capacity), args.window_words);
}

// Finds a gate and lists the logits of the slice that pass it, behind prepare_listing().
template <LogitsType kType, int kClusterSize, int kThreads, class Storage>
__device__ __forceinline__ void list_passing(KernelArgs const& args, Storage& shared,
                                             Candidate* list, Assignment<kType> const& own,
                                             Sample<kType, kThreads>& sample,
                                             ClusterSelect<kClusterSize, kThreads>& selector) {
  if (threadIdx.x == 0) {
    shared.num_candidates = 0;
    shared.first_tie = kBeyondCapacity;
    shared.ties_noted = false;
    shared.slice_begin = own.slice_begin;
    shared.slice_count = own.slice.count;
  }
  constexpr int kDepth = packets_in_flight(kType, kClusterSize);
  constexpr int kEarly = early_packets(kClusterSize);
  Stream<kType, kThreads, kDepth> stream;
  stream.template begin<0, kEarly>(own.slice);
  selector.wait_for_cluster();
  if constexpr (samples_ahead(kClusterSize)) sample.drop_beyond(own.range.length);
  Gate const gate = find_gate(shared.bins, shared.warp_sums, sample, args.top_k,
                              [&] { stream.template begin<kEarly, kDepth>(own.slice); });
  if (threadIdx.x == 0) shared.gate = gate;
  __syncthreads();
  note_ties<kType>(shared, own.slice, stream.packets[0]);
  collect(CandidateStore{list, &shared.num_candidates, static_cast<uint32_t>(args.capacity)},
          own.slice, stream, logit_of(shared.gate.key));
  __syncthreads();
}

// Lists, behind `count` candidates, the slice's first `wanted` keys equal to the tie beneath the
// gate; returns how many candidates there are then.
template <LogitsType kType, int kClusterSize, int kThreads, class Storage>
__device__ __forceinline__ uint32_t add_ties(KernelArgs const& args, Storage& shared,
                                             Candidate* list, uint32_t count, uint32_t wanted) {
  Assignment<kType> const own(args, opaque(blockIdx.x), kClusterSize);
  if (threadIdx.x == 0) shared.first_tie = count;
  count += list_ties<kThreads>(shared, list, count, own.slice, shared.gate.key - 1, wanted);
  __syncthreads();
  return count;
}

// Selects among what is listed, whose number it returns; `keys` are then those of the lists. If too
// few pass the gate, the tie beneath it may fill up the lists, ahead of the selection where the
// sample tells that it will have to; if that does not do, and where more pass than a list takes, a
// block lists the best of its slice. Nothing is left to do if order_ties() is called and tells that
// it has ordered the row: where all candidates win, and ties beneath the gate.
template <LogitsType kType, int kClusterSize, int kThreads, int kKeys, class Storage,
          class OrderTies>
__device__ __forceinline__ uint32_t settle(KernelArgs const& args, Storage& shared, Candidate* list,
                                           ClusterSelect<kClusterSize, kThreads>& selector,
                                           uint32_t (&keys)[kKeys], OrderTies const& order_ties) {
  uint32_t const capacity = args.capacity;
  uint32_t const low = shared.gate.key;
  Interval interval{low, ~low, round_shift(shared.gate.high - low)};
  uint32_t count = shared.num_candidates;
  bool above_tie = shared.gate.above_tie;
  if (shared.gate.likely_tied) {  // the same in all blocks of the row
    uint32_t const wanted = args.top_k - min(count, static_cast<uint32_t>(args.top_k));
    if (count <= capacity && shared.ties_noted &&
        list_noted_ties<kType, kThreads>(shared, list + count, low - 1, wanted)) {
      if (threadIdx.x == 0) shared.first_tie = count;
      count += wanted;
    } else if (count <= capacity) {
      count = add_ties<kType, kClusterSize, kThreads>(args, shared, list, count, wanted);
    }
    above_tie = false;
    interval = Interval{low - 1, ~(low - 1), 0};
  }
#pragma unroll 1
  while (true) {
    if (count > capacity) {
      Assignment<kType> const own(args, opaque(blockIdx.x), kClusterSize);
      count = list_best<kThreads>(shared, list, own.slice, args.top_k);
      if (threadIdx.x == 0) shared.first_tie = kBeyondCapacity;
      __syncthreads();
    }
    load_keys<kThreads>(keys, list, count, first_held<kThreads>());
    auto const visit = [&](auto const& take) {
      visit_held<kThreads, kKeys, 2>(count, [&](int i) {
        uint32_t const pair[2] = {keys[i], keys[i + 1]};
        take(pair);
      });
    };
    if (selector.select_visited(visit, interval)) return count;
    count = kBeyondCapacity;
    if (above_tie) {
      above_tie = false;
      if (shared.gate.maybe_tied && order_ties()) return count;
      count = add_ties<kType, kClusterSize, kThreads>(args, shared, list, shared.num_candidates,
                                                      selector.remaining());
      interval = Interval{low - 1, 0, 0};
    }
  }
}

// Orders the block's winners among `count` candidates.
template <int kClusterSize, int kThreads, int kKeys, class Storage>
__device__ __forceinline__ OrderedWinners order_selected(KernelArgs const& args, Storage& shared,
                                                         Candidate* list, uint32_t count,
                                                         uint32_t const (&keys)[kKeys],
                                                         Verdict const& verdict) {
  int32_t const slice_count = shared.slice_count;  // the row's end would be a load
  uint32_t* const bitmap = reinterpret_cast<uint32_t*>(list + opaque(args.capacity));
  int32_t* const winners =
      reinterpret_cast<int32_t*>(bitmap + args.window_words + args.window_words / 32);
  WinnerRule rule{verdict.threshold + 1, verdict.threshold, 0};
  if (verdict.threshold == shared.gate.key - 1 && shared.first_tie < count && !verdict.settled) {
    // The ties are listed in order.
    uint32_t const winning = verdict.ties - min(verdict.ties, verdict.equal_before);
    uint32_t const end = min(shared.first_tie + winning, count);
    if (winning > 0) rule.tie_end = list[end - 1].position + 1;
  } else {
    rule = winner_rule<kThreads>(shared.bins, shared.warp_sums[0], list + first_held<kThreads>(),
                                 keys, verdict, slice_count);
  }
  // Listed ties lie close together. Where a thread has one word, that costs less than to tell them
  // apart.
  bool const crowded = kClusterSize <= 2 && shared.first_tie < count && slice_count > 32 * kThreads;
  WinnerOrder const order{bitmap, reinterpret_cast<uint16_t*>(shared.bins.bins),
                          static_cast<uint32_t>(args.window_words), crowded};
  uint32_t const number = order_winners<kThreads>(shared.warp_sums, order, list, count, keys, rule,
                                                  slice_count, winners);
  __syncthreads();
  return OrderedWinners{first_winner(verdict), number};
}

// Writes the block's winners to its part of the row's indices.
template <int kClusterSize, int kThreads, class Storage>
__device__ __forceinline__ void write_winners(KernelArgs const& args, Storage const& shared,
                                              Candidate const* list,
                                              OrderedWinners const& ordered) {
  int32_t const row = opaque(blockIdx.x) / kClusterSize;
  uint32_t const window_words = args.window_words;
  int32_t const* const winners = reinterpret_cast<int32_t const*>(list + opaque(args.capacity)) +
                                 window_words + window_words / 32;
  int32_t* const indices = args.indices + int64_t{row} * args.indices_row_stride + ordered.first;
  SlotMap const slot(args, row);
  for (uint32_t i = threadIdx.x; i < ordered.number; i += kThreads) {
    indices[i] = slot(shared.slice_begin + winners[i]);
  }
}

}  // namespace dsa_ops::topk_sm90::gated
