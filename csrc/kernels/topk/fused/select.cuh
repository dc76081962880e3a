// The best of a row's candidates, in order: the selection of the gated kernel over lists that a
// scan filled.
#pragma once
#include <cstdint>

#include "device/ptx/grid.cuh"
#include "kernels/topk/candidates.cuh"
#include "kernels/topk/cluster_select.cuh"
#include "kernels/topk/fused/args.h"
#include "kernels/topk/keys.cuh"
#include "kernels/topk/row_range.cuh"

namespace dsa_ops::topk_sm90::fused {

// Followed by the candidates, the winners' bitmap and the winners' positions.
struct alignas(128) SelectionStorage {
  SelectStorage<1> select;
  BinStorage bins;
  uint32_t warp_sums[2][1][kSelectThreads / 32];
  uint2 lists[kRowLists];  // candidates before a list; its own of the first part and of the rest
};

// Counts the row's candidates; more than `capacity` if a list has overflowed.
__device__ __forceinline__ uint32_t place_lists(SelectionStorage& shared, uint16_t const* counts,
                                                int32_t list_capacity, uint32_t capacity) {
  uint32_t const list = threadIdx.x;
  uint32_t first = 0;
  uint32_t rest = 0;
  if (list < kRowLists) {
    first = counts[list];
    rest = counts[kRowLists + list];
  }
  // A list that is just full might have lost some.
  uint32_t const lost = first + rest >= static_cast<uint32_t>(list_capacity) ? 1 << 16 : 0;
  uint32_t const own[1] = {first + rest + lost};
  BlockSums<kSelectThreads, 1> const sums(shared.warp_sums[0], own);
  if (list < kRowLists) shared.lists[list] = make_uint2(sums.before[0], first | rest << 16);
  return sums.total[0] < 1 << 16 ? sums.total[0] : capacity + 1;
}

// Copies the row's candidates to shared memory, positions relative to the row's start. 16 threads
// take neighbouring lists, whose candidates lie side by side.
__device__ __forceinline__ void gather_lists(SelectionStorage const& shared, Candidate* to,
                                             uint8_t const* lists, int32_t list_capacity,
                                             int32_t row_start) {
  constexpr uint32_t kThreadsPerList = kSelectThreads / kRowLists;
  constexpr uint32_t kBatch = 8;
  uint32_t const list = threadIdx.x % kRowLists;
  uint2 const placed = shared.lists[list];
  uint32_t const first = placed.y & 0xFFFF;
  uint32_t const number = first + (placed.y >> 16);
  uint2 const* const slots = reinterpret_cast<uint2 const*>(lists) +
                             list / kListLanes * list_capacity * kListLanes + list % kListLanes;
#pragma unroll 1
  for (uint32_t begin = threadIdx.x / kRowLists; begin < number;
       begin += kBatch * kThreadsPerList) {
    uint2 batch[kBatch];
#pragma unroll
    for (uint32_t i = 0; i < kBatch; ++i) {
      uint32_t const index = begin + i * kThreadsPerList;
      uint32_t const slot = index < first ? index : list_capacity - 1 - (index - first);
      if (index < number) batch[i] = __ldcs(slots + slot * kListLanes);
    }
#pragma unroll
    for (uint32_t i = 0; i < kBatch; ++i) {
      uint32_t const index = begin + i * kThreadsPerList;
      if (index < number) to[placed.x + index] = Candidate{batch[i].x, batch[i].y - row_start};
    }
  }
}

__global__ void __launch_bounds__(kSelectThreads, 2)
    list_topk_kernel(__grid_constant__ SelectArgs const args) {
  constexpr int kKeys = kMaxCandidates / kSelectThreads;
  extern __shared__ __align__(128) unsigned char memory[];
  SelectionStorage& shared = *reinterpret_cast<SelectionStorage*>(memory);
  Candidate* const list = reinterpret_cast<Candidate*>(memory + sizeof(SelectionStorage));
  uint32_t* const bitmap = reinterpret_cast<uint32_t*>(list + kMaxCandidates);
  int32_t* const winners =
      reinterpret_cast<int32_t*>(bitmap + args.topk.window_words + args.topk.window_words / 32);

  ClusterSelect<1, kSelectThreads> selector(shared.select, args.topk.top_k);
  clear_bitmap<kSelectThreads>(bitmap, args.topk.window_words);
  ptx::wait_for_prior_kernels();
  ptx::launch_dependent_kernels();
  int32_t const scan_row = blockIdx.x;
  int32_t const row = args.first_row + scan_row;
  RowRange const range(args.topk, row);
  int32_t* const indices = args.topk.indices + int64_t{row} * args.topk.indices_row_stride;
  if (range.length <= args.topk.top_k) {
    write_whole_row<kSelectThreads>(args.topk, range, SlotMap(args.topk, row), 0, 1, indices);
    return;
  }
  uint32_t const count =
      place_lists(shared, args.counts + int64_t{scan_row} * kParts * kRowLists, args.list_capacity,
                  kMaxCandidates);
  if (count < static_cast<uint32_t>(args.topk.top_k) || count > kMaxCandidates) {
    if (threadIdx.x == 0) {
      int32_t const tile_row = args.first_tile_row + scan_row;
      int32_t const tile = tile_row / args.rows_per_tile;
      if (atomicOr(&args.redo.rows[tile], 1 << tile_row % args.rows_per_tile) == 0) {
        args.redo.tiles[atomicAdd(args.redo.count, 1)] = tile;
      }
    }
    return;
  }
  RowGate const gate = args.gates[scan_row];
  __syncthreads();
  gather_lists(shared, list, args.lists + int64_t{scan_row} * kRowLists * args.list_capacity *
                                              static_cast<int64_t>(sizeof(Candidate)),
               args.list_capacity, range.start);
  __syncthreads();

  uint32_t const low = key_of(gate.low_end > 0 ? gate.low : gate.high);
  Interval interval{low, ~low, round_shift(max(gate.best, low) - low)};
  uint32_t keys[kKeys];
  load_keys<kSelectThreads>(keys, list, count);
  selector.select(keys, interval);
  WinnerRule const rule = winner_rule<kSelectThreads>(shared.bins, shared.warp_sums[0], list, keys,
                                                      selector.verdict(), range.length);
  uint32_t const number = order_winners<kSelectThreads>(shared.warp_sums, bitmap,
                                                        args.topk.window_words, list, keys, rule,
                                                        range.length, winners);
  __syncthreads();
  SlotMap const slot(args.topk, row);
  for (uint32_t i = threadIdx.x; i < number; i += kSelectThreads) indices[i] = slot(winners[i]);
}

}  // namespace dsa_ops::topk_sm90::fused
