// indices[t, :] = ascending positions (or slots) of the top_k best of logits[t, start(t) : end(t)].
//
// A cluster of kClusterSize blocks (512 threads each) takes one row, a block one contiguous slice
// of it. No roles and no pipeline: load + first digit, up to two more digits, compaction, output;
// the overlap of one row's loads with another's selection comes from two blocks per multiprocessor.
// Registers: at most 64. Shared memory: 17,152 bytes (two histograms, coarse sums, scan totals) +
// 4 per resident key + 4 * top_k.
//
// Barriers are described where they stand: finish_round (one of the cluster per digit), sum_block,
// and at the end of the kernel one cluster barrier that keeps a block's histograms alive while its
// peers read them. How many rounds a row takes (0 to 3) is the same in all blocks of its cluster.
#pragma once
#include <cstdint>

#include "device/ptx/cluster.cuh"
#include "kernels/topk/resident/compact.cuh"
#include "kernels/topk/resident/select.cuh"
#include "kernels/topk/resident/slice.cuh"
#include "kernels/topk/resident/traits.h"
#include "kernels/topk/row_range.cuh"

namespace dsa_ops::topk_sm90::resident {

template <LogitsType kType, int kClusterSize>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    resident_topk_kernel(__grid_constant__ KernelArgs const args) {
  using Element = typename Slice<kType>::Element;
  extern __shared__ __align__(128) unsigned char memory[];
  SharedStorage& shared = *reinterpret_cast<SharedStorage*>(memory);
  uint4* const key_quads = reinterpret_cast<uint4*>(memory + sizeof(SharedStorage));
  int32_t* const winners = reinterpret_cast<int32_t*>(key_quads + args.capacity / 4);

  int32_t const row = blockIdx.x / kClusterSize;
  int const rank = blockIdx.x % kClusterSize;
  RowRange const range(args, row);
  SlotMap const slot(args, row);
  int32_t* const indices = args.indices + int64_t{row} * args.indices_row_stride;

  if (range.length <= args.top_k) {
    write_whole_row(args, range, slot, rank, kClusterSize, indices);
    return;
  }

  // Slices are multiples of 8 logits, so that all blocks of a row cut packets alike.
  int const slice_length = ((range.length - 1) / kClusterSize / 8 + 1) * 8;
  int const slice_begin = rank * slice_length;
  int const count = max(min(range.length - slice_begin, slice_length), 0);
  Slice<kType> const slice(static_cast<Element const*>(args.logits) +
                               int64_t{row} * args.logits_row_stride + range.start + slice_begin,
                           count);
  // A slice beyond the capacity leaves the last tile free to pass the rest through.
  int const resident = slice.keys <= args.capacity ? slice.keys : args.capacity - kTileKeys;

  Selection const selection =
      select_threshold<kClusterSize>(shared, key_quads, slice, resident, rank, args.top_k);
  // This block's reads of its peers are complete: their values were in shared memory before the
  // last __syncthreads.
  if constexpr (kClusterSize > 1) ptx::cluster_arrive_relaxed();

  Winners const mine = compact(shared, key_quads, slice, resident, selection, slice_begin, winners);
  __syncthreads();
  for (int i = threadIdx.x; i < mine.count; i += kThreads) {
    indices[mine.first + i] = slot(winners[i]);
  }
  if constexpr (kClusterSize > 1) {
    __syncwarp();
    ptx::cluster_wait_acquire();
  }
}

}  // namespace dsa_ops::topk_sm90::resident
