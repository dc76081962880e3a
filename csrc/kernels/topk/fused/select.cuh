// The best of a row's candidates, in order, by one block.
//
// The lists stay where the scan left them: a pass reads all of them again, from the L1 but for the
// first. One pass counts keys in 2,048 bins between the gate and a key that few exceed, which
// leaves a bin of a few keys; another finds the k-th best in it; the last sets the winners' bits
// in a bitmap of the row's positions.
#pragma once
#include <cstdint>

#include "device/ptx/grid.cuh"
#include "kernels/topk/bins.cuh"
#include "kernels/topk/candidates.cuh"
#include "kernels/topk/fused/args.h"
#include "kernels/topk/keys.cuh"
#include "kernels/topk/row_range.cuh"

namespace dsa_ops::topk_sm90::fused {

// Followed by the bitmap.
struct alignas(128) SelectionStorage {
  BinStorage bins;
  uint32_t warp_sums[2][1][kSelectThreads / 32];
};

// A thread's share of a list. 16 threads take neighbouring lists, whose candidates lie side by
// side.
struct ListPart {
  static constexpr uint32_t kThreads = kSelectThreads / kRowLists;  // of a list

  Candidate const* slots;  // of the list, kListLanes apart
  uint32_t first;          // candidates from the front
  uint32_t number;         // and from the back
  uint32_t last_slot;

  __device__ ListPart(SelectArgs const& args, int32_t scan_row) {
    uint32_t const list = threadIdx.x % kRowLists;
    uint16_t const* const counts = args.counts + int64_t{scan_row} * kParts * kRowLists + list;
    first = counts[0];
    number = first + counts[kRowLists];
    last_slot = args.list_capacity - 1;
    slots = args.lists +
            (int64_t{scan_row} * indexer::kMathWarps + list / kListLanes) * args.list_capacity *
                kListLanes +
            list % kListLanes;
  }
  __device__ __forceinline__ uint32_t total_share() const {
    return threadIdx.x < kRowLists ? number : 0;
  }
  // Of the whole list; a list that is just full might have lost some.
  __device__ __forceinline__ bool overflows() const { return number > last_slot; }

  // Calls take(key, candidate) for this thread's candidates.
  template <class Take>
  __device__ __forceinline__ void visit(Take const& take) const {
    constexpr uint32_t kBatch = 4;
#pragma unroll 1
    for (uint32_t begin = threadIdx.x / kRowLists; begin < number; begin += kBatch * kThreads) {
      uint32_t bits[kBatch];
      Candidate const* at[kBatch];
#pragma unroll
      for (uint32_t i = 0; i < kBatch; ++i) {
        uint32_t const index = begin + i * kThreads;
        uint32_t const slot = index < first ? index : last_slot - (index - first);
        at[i] = slots + slot * kListLanes;
        bits[i] = 0;
        if (index < number) bits[i] = at[i]->bits;
      }
#pragma unroll
      for (uint32_t i = 0; i < kBatch; ++i) {
        if (begin + i * kThreads < number) take(key_of(__uint_as_float(bits[i])), *at[i]);
      }
    }
  }
};

// The bin of the k-th best candidate: all of its keys win, or it is one key.
__device__ __forceinline__ Bin find_kth(BinStorage& bins, ListPart const& part, uint32_t low,
                                        uint32_t best, uint32_t top_k) {
  int const shift = max(32 - __clz(best - low) - kBinsLog2, 0);
  part.visit([&](uint32_t key, Candidate const&) {
    atomicAdd(&bins.bins[min((key - low) >> shift, kBins - 1u)], 1u);
  });
  __syncthreads();
  if (threadIdx.x < kSearchThreads) find_places(bins, top_k, 0);
  __syncthreads();
  Place const place = bins.low;
  Bin bin{low + (place.bin << shift), shift, place.rank, place.inside};
  if (place.bin == kBins - 1) bin.shift = 32 - __clz(~bin.low);  // no end above
  return narrow<kSelectThreads>(
      bins, bin, 0,
      [&](auto const& count) { part.visit([&](uint32_t key, Candidate const&) { count(key); }); },
      [](Bin const& bin) { return bin.rank == bin.inside; });
}

// The rule for the row's winners. Keys equal to the k-th best are told apart by position.
__device__ __forceinline__ WinnerRule rule_of(BinStorage& bins, ListPart const& part,
                                              Bin const& kth, RowRange const& range) {
  WinnerRule rule{kth.low, kth.low, 0};
  if (kth.rank == kth.inside) return rule;
  uint32_t const last = range.start + range.length - 1;
  Bin const bin = narrow<kSelectThreads>(
      bins, Bin{0, 32 - __clz(range.length), kth.rank, 0}, 0,
      [&](auto const& count) {  // values that descend as positions ascend
        part.visit([&](uint32_t key, Candidate const& candidate) {
          if (key == kth.low) count(last - candidate.position);
        });
      },
      [](Bin const&) { return false; });
  rule.first_greater = kth.low + 1;
  rule.tie_end = last - bin.low + 1;
  return rule;
}

// Sets the winners' bits of a window of the bitmap, zero before, and calls emit(rank, position) in
// order. Words are left zero.
template <class Emit>
__device__ __forceinline__ void emit_winners(SelectionStorage& shared, uint32_t* bitmap,
                                             uint32_t window_words, ListPart const& part,
                                             WinnerRule const& wins, RowRange const& range,
                                             Emit const& emit) {
  constexpr uint32_t kWords = kMaxWindowWords / kSelectThreads;  // of a thread
  uint32_t const row_words = (static_cast<uint32_t>(range.length) + 31) / 32;
  uint32_t emitted = 0;
  int window = 0;
#pragma unroll 1
  for (uint32_t first_word = 0; first_word < row_words; first_word += window_words, ++window) {
    uint32_t const num_words = min(row_words - first_word, window_words);
    part.visit([&](uint32_t key, Candidate const& candidate) {
      if (key < wins.threshold) return;
      uint32_t const position = candidate.position;
      if (!wins(key, position)) return;
      uint32_t const bit = position - range.start;
      uint32_t const word = bit / 32 - first_word;
      if (word < num_words) atomicOr(&bitmap[bitmap_place(word)], 1u << bit % 32);
    });
    __syncthreads();
    uint32_t const own = (num_words + kSelectThreads - 1) / kSelectThreads;
    uint32_t const first = threadIdx.x * own;
    uint32_t words[kWords];
    uint32_t counts[1] = {0};
#pragma unroll
    for (uint32_t i = 0; i < kWords; ++i) {
      words[i] = 0;
      if (i < own && first + i < num_words) {
        words[i] = bitmap[bitmap_place(first + i)];
        bitmap[bitmap_place(first + i)] = 0;
      }
      counts[0] += __popc(words[i]);
    }
    BlockSums<kSelectThreads, 1> const sums(shared.warp_sums[window % 2], counts);
    uint32_t rank = emitted + sums.before[0];
#pragma unroll
    for (uint32_t i = 0; i < kWords; ++i) {
#pragma unroll 1
      while (words[i] != 0) {
        emit(rank++, (first_word + first + i) * 32 + __ffs(words[i]) - 1);
        words[i] &= words[i] - 1;
      }
    }
    emitted += sums.total[0];
  }
}

__device__ __forceinline__ void leave_to_rescore(SelectArgs const& args, int32_t scan_row) {
  int32_t const tile_row = args.first_tile_row + scan_row;
  int32_t const tile = tile_row / args.rows_per_tile;
  if (atomicOr(&args.redo.rows[tile], 1 << tile_row % args.rows_per_tile) == 0) {
    args.redo.tiles[atomicAdd(args.redo.count, 1)] = tile;
  }
}

__global__ void __launch_bounds__(kSelectThreads, kSelectBlocks)
    list_topk_kernel(__grid_constant__ SelectArgs const args) {
  extern __shared__ __align__(128) unsigned char memory[];
  SelectionStorage& shared = *reinterpret_cast<SelectionStorage*>(memory);
  uint32_t* const bitmap = reinterpret_cast<uint32_t*>(memory + sizeof(SelectionStorage));

  clear_bins<kSelectThreads>(shared.bins);
  clear_bitmap<kSelectThreads>(bitmap, args.topk.window_words);
  ptx::wait_for_prior_kernels();
  ptx::launch_dependent_kernels();
  int32_t const scan_row = blockIdx.x;
  int32_t const row = args.first_row + scan_row;
  RowRange const range(args.topk, row);
  int32_t* const indices = args.topk.indices + int64_t{row} * args.topk.indices_row_stride;
  SlotMap const slot(args.topk, row);
  if (range.length <= args.topk.top_k) {
    write_whole_row<kSelectThreads>(args.topk, range, slot, 0, 1, indices);
    return;
  }
  RowGate const gate = args.gates[scan_row];
  ListPart const part(args, scan_row);
  bool const overflows = __syncthreads_or(part.overflows());
  uint32_t const own[1] = {part.total_share()};
  BlockSums<kSelectThreads, 1> const sums(shared.warp_sums[0], own);
  uint32_t const top_k = args.topk.top_k;
  if (overflows || sums.total[0] < top_k) {
    if (threadIdx.x == 0) leave_to_rescore(args, scan_row);
    return;
  }
  uint32_t const low = key_of(gate.low_end > 0 ? gate.low : gate.high);
  Bin const kth = find_kth(shared.bins, part, low, max(gate.best, low + 1), top_k);
  WinnerRule const rule = rule_of(shared.bins, part, kth, range);
  emit_winners(shared, bitmap, args.topk.window_words, part, rule, range,
               [&](uint32_t rank, uint32_t position) { indices[rank] = slot(position); });
}

}  // namespace dsa_ops::topk_sm90::fused
