// indices[t, :] = ascending positions (or slots) of the top_k best of logits[t, start(t) : end(t)].
//
// A cluster of kClusterSize blocks takes one row, a block one contiguous slice of it, which bulk
// copies bring to shared memory: a logit is read once, no register waits for memory, and several
// blocks of a multiprocessor hide one another's loads. A sample gives an interval of keys, the
// cluster selects the k-th best from there, each block orders its own winners.
//
// Shared memory: SharedStorage, the slice. Barriers are described where they stand.
#pragma once
#include <cstdint>

#include "device/ptx/grid.cuh"
#include "kernels/topk/cluster_select.cuh"
#include "kernels/topk/resident/guess.cuh"
#include "kernels/topk/row_range.cuh"
#include "kernels/topk/staged/staged_slice.cuh"
#include "kernels/topk/staged/winners.cuh"

namespace dsa_ops::topk_sm90::staged {

using resident::guess_interval;
using resident::prepare_guess;
using resident::RowSample;

// One block has the whole row, in shared memory: samples at scrambled places within equal parts of
// it.
template <LogitsType kType, int kThreads>
__device__ __forceinline__ Interval guess_from_slice(BinStorage& shared,
                                                     StagedSlice<kType, kThreads> const& slice,
                                                     int top_k) {
  constexpr int kCount = kSamples / kThreads;
  uint32_t const length = slice.valid;
  uint32_t const width = max(length / kSamples, 1);
  uint32_t keys[kCount];
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    uint32_t const index = threadIdx.x + i * kThreads;
    uint32_t const place = length * index / kSamples + __umulhi(index * 0x9E3779B1u, width);
    keys[i] = key_of(slice[place]);
  }
  return guess_interval<kThreads>(shared, keys, top_k, __fdividef(kSamples, length));
}

template <LogitsType kType, int kClusterSize, int kThreads, int kMinBlocks>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    staged_topk_kernel(__grid_constant__ KernelArgs const args) {
  using Element = typename Packet<kType>::Element;
  using Storage = SharedStorage<kClusterSize, kThreads>;
  // Few rows: loads do not wait for the row's end, but take all columns.
  constexpr bool kEager = kClusterSize > 1 || kThreads > 256;
  extern __shared__ __align__(128) unsigned char memory[];
  Storage& shared = *reinterpret_cast<Storage*>(memory);

  int32_t const row = blockIdx.x / kClusterSize;
  int const rank = blockIdx.x % kClusterSize;
  STAMP(0);
  bool const loads = threadIdx.x < 32 && ptx::elect_one();
  if (loads) {
#pragma unroll
    for (uint64_t& loaded : shared.loaded) ptx::mbarrier_init(&loaded, 1);
    ptx::fence_mbarrier_init();
  }
  ptx::wait_for_prior_kernels();
  // A branch: a choice between two values would wait for the row's range.
  Element const* logits =
      static_cast<Element const*>(args.logits) + int64_t{row} * args.logits_row_stride;
  int span = args.num_columns;
  if (!kEager || args.row_starts != nullptr) {
    RowRange const range(args, row);
    logits += range.start;
    span = range.length;
  }
  StagedSlice<kType, kThreads> slice(memory + sizeof(Storage), logits, span, rank, kClusterSize);
  RowSample<kType, kThreads> const sample(logits, kClusterSize > 1 ? span : 0);
  if (kEager || span > args.top_k) {
    if (loads) slice.load(logits, shared.loaded);
    slice.load_edges(logits);
  }
  RowRange const range(args, row);
  ClusterSelect<kClusterSize, kThreads> selector(shared.select, args.top_k);
  prepare_guess<kThreads>(shared.bins);
  __syncthreads();
  STAMP(1);

  bool const whole = range.length <= args.top_k;
  if (kEager || !whole) slice.wait(shared.loaded);
  if (whole) {
    selector.wait_for_cluster();
    write_whole_row<kThreads>(args, range, SlotMap(args, row), rank, kClusterSize,
                              args.indices + int64_t{row} * args.indices_row_stride);
    return;
  }
  STAMP(2);
  slice.valid = min(range.length - slice.begin, slice.count);
  Interval interval;
  if constexpr (kClusterSize == 1) {
    interval = guess_from_slice(shared.bins, slice, args.top_k);
  } else {
    interval = sample.guess(shared.bins, range.length, span, args.top_k);
  }
  selector.wait_for_cluster();
  STAMP(3);
  auto const visit = [&](auto const& take) {
    slice.visit([&](auto const& keys, int) { take(keys); });
  };
  while (!selector.select_visited(visit, interval)) continue;
  STAMP(7);

  Verdict const verdict = selector.verdict();
  uint32_t const count = order_winners(slice, shared.warp_sums, verdict);
  __syncthreads();
  STAMP(8);
  int32_t const own_row = opaque(blockIdx.x) / kClusterSize;
  SlotMap const slot(args, own_row);
  int32_t const* const winners = reinterpret_cast<int32_t const*>(slice.packets);
  int32_t* const indices =
      args.indices + int64_t{own_row} * args.indices_row_stride + first_winner(verdict);
  for (uint32_t i = threadIdx.x; i < count; i += kThreads) indices[i] = slot(winners[i]);
  STAMP(9);
}

}  // namespace dsa_ops::topk_sm90::staged
