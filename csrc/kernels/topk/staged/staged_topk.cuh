// indices[t, :] = ascending positions (or slots) of the top_k best of logits[t, start(t) : end(t)].
//
// A block takes one row, which a bulk copy brings to shared memory: a logit is read once, no
// register waits for memory, and five blocks of a multiprocessor hide one another's loads. A sample
// gives an interval of keys, the block selects the k-th best from there and orders the winners.
//
// Shared memory: SharedStorage, the row. Barriers are described where they stand.
#pragma once
#include <cstdint>

#include "device/ptx/grid.cuh"
#include "device/ptx/warp.cuh"
#include "kernels/topk/cluster_select.cuh"
#include "kernels/topk/guess.cuh"
#include "kernels/topk/row_range.cuh"
#include "kernels/topk/staged/staged_row.cuh"
#include "kernels/topk/staged/traits.h"
#include "kernels/topk/staged/winners.cuh"

namespace dsa_ops::topk_sm90::staged {

// Samples at scrambled places within equal parts of the row.
template <LogitsType kType>
__device__ __forceinline__ Interval guess_from_row(BinStorage& shared, StagedRow<kType> const& row,
                                                   int top_k) {
  constexpr int kCount = kSamples / kThreads;
  uint32_t const length = row.length;
  uint32_t const width = max(length / kSamples, 1);
  uint32_t samples[kCount];
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    uint32_t const index = threadIdx.x + i * kThreads;
    uint32_t const begin = length * index / kSamples;
    samples[i] = key_of(row[begin + __umulhi(index * 0x9E3779B1u, width)]);
  }
  return guess_interval<kThreads>(shared, samples, top_k, __fdividef(kSamples, length), [] {});
}

template <LogitsType kType>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    staged_topk_kernel(__grid_constant__ KernelArgs const args) {
  using Element = typename Packet<kType>::Element;
  extern __shared__ __align__(128) unsigned char memory[];
  SharedStorage& shared = *reinterpret_cast<SharedStorage*>(memory);

  if (threadIdx.x == 0) {
    ptx::mbarrier_init(&shared.loaded, 1);
    ptx::fence_mbarrier_init();
  }
  __syncthreads();
  ptx::wait_for_prior_kernels();
  RowRange const range(args, blockIdx.x);
  int32_t* const indices = args.indices + int64_t{blockIdx.x} * args.indices_row_stride;
  if (range.length <= args.top_k) {
    write_whole_row<kThreads>(args, range, SlotMap(args, blockIdx.x), 0, 1, indices);
    return;
  }
  Element const* const logits = static_cast<Element const*>(args.logits) +
                                int64_t{blockIdx.x} * args.logits_row_stride + range.start;
  StagedRow<kType> row(memory + sizeof(SharedStorage), logits, range.length);
  if (threadIdx.x < 32 && ptx::elect_one()) row.load_packets(&shared.loaded);
  row.load_edges();
  // While the packets are on their way.
  ClusterSelect<1, kThreads> selector(shared.select, args.top_k);
  prepare_guess<kThreads>(shared.bins);
  __syncthreads();
  ptx::mbarrier_wait(&shared.loaded, 0);

  Interval interval = guess_from_row(shared.bins, row, args.top_k);
  auto const visit = [&](auto const& take) {
    row.visit([&](auto const& keys, int) { take(keys); });
  };
  while (!selector.select_visited(visit, interval)) continue;
  uint32_t const count = order_winners(row, shared.warp_sums, selector.verdict());
  __syncthreads();
  int32_t const* const winners = reinterpret_cast<int32_t const*>(row.packets);
  SlotMap const slot(args, blockIdx.x);
  for (uint32_t i = threadIdx.x; i < count; i += kThreads) indices[i] = slot(winners[i]);
}

}  // namespace dsa_ops::topk_sm90::staged
