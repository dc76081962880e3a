// indices[t, :] = ascending positions (or slots) of the top_k best of logits[t, start(t) : end(t)].
//
// A cluster of kClusterSize blocks takes one row, a block one contiguous part of it, whose keys its
// threads hold in registers: a logit is read once, and all loads are in flight at once, with those
// of a sample. The sample gives an interval of keys, the cluster selects the k-th best from there,
// and each block writes its own winners. No roles and no pipeline.
//
// Registers: kKeys for keys. Shared memory: SharedStorage. Barriers are described where they stand.
#pragma once
#include <cstdint>

#include "device/ptx/grid.cuh"
#include "kernels/topk/cluster_select.cuh"
#include "kernels/topk/resident/guess.cuh"
#include "kernels/topk/resident/row_part.cuh"
#include "kernels/topk/resident/traits.h"
#include "kernels/topk/row_range.cuh"

namespace dsa_ops::topk_sm90::resident {

template <LogitsType kType, int kClusterSize, int kThreads, int kKeys, int kMinBlocks>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    resident_topk_kernel(__grid_constant__ KernelArgs const args) {
  __shared__ SharedStorage<kClusterSize, kThreads> shared;
  TOPK_STAMP(0);
  int32_t const row = blockIdx.x / kClusterSize;
  int const rank = blockIdx.x % kClusterSize;
  Selector<kClusterSize, kThreads> selector(shared.select, args.top_k);
  ptx::wait_for_prior_kernels();

  // Rows that start at zero are cut by the width of the logits, so that their loads need not wait
  // for the row's end.
  RowRange const range(args, row);
  bool const from_zero = args.row_starts == nullptr;
  int const span = from_zero ? args.num_columns : range.length;
  auto const* const logits = static_cast<ElementOf<kType> const*>(args.logits) +
                             int64_t{row} * args.logits_row_stride +
                             (from_zero ? 0 : range.start);
  int const samples = group_samples(span, args.top_k);
  GroupSamples<kType, kThreads> const sample(logits, span, samples);
  RowPart<kThreads, kKeys> const part(span, rank, kClusterSize);
  float values[kKeys];
  part.template load<kType>(values, logits);
  GroupRanks const ranks = group_ranks(samples, span, args.top_k);
  TOPK_STAMP(1);

  int32_t* const indices = args.indices + int64_t{row} * args.indices_row_stride;
  if (range.length <= args.top_k) {
    selector.wait_for_cluster();
    write_whole_row<kThreads>(args, range, SlotMap(args, row), rank, kClusterSize, indices);
    return;
  }
  sample.write_best(shared.group_best, range.length);
  __syncthreads();
  TOPK_STAMP(2);
  if (threadIdx.x < 32) find_bounds(shared.low, shared.high, shared.group_best, ranks);
  uint32_t keys[kKeys];
  part.make_keys(keys, values, range.length);
  __syncthreads();
  TOPK_STAMP(3);
  Interval interval = guessed_interval(shared.low, shared.high);
  selector.wait_for_cluster();
  while (!selector.select(keys, interval)) continue;
  TOPK_STAMP(7);

  Verdict const verdict = selector.verdict();
  SlotMap const slot(args, row);
  int32_t* const own = indices + first_winner(verdict);
  emit_winners<kThreads>(shared.warp_sums, keys, verdict, [&](uint32_t place, int i) {
    own[place] = slot(part.begin + part.index(i));
  });
  TOPK_STAMP(9);
}

}  // namespace dsa_ops::topk_sm90::resident
