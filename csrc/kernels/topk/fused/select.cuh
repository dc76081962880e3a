// The best of a row's candidates, in order, by one block.
//
// Threads hold the candidates, four threads a list. One pass counts keys in 2,048 bins from the
// gate to the greatest, which leaves a bin of a few keys to rank; the winners set bits in a bitmap
// of the row's positions. Where many keys equal the last that wins, they set bits in a
// bitmap of their own, of which the first so many count.
#pragma once
#include <cstdint>

#include "device/ptx/grid.cuh"
#include "kernels/topk/bins.cuh"
#include "kernels/topk/candidates.cuh"
#include "kernels/topk/fused/args.h"
#include "kernels/topk/keys.cuh"
#include "kernels/topk/row_range.cuh"

namespace dsa_ops::topk_sm90::fused {

inline constexpr uint32_t kListThreads = kSelectThreads / kRowLists;
inline constexpr uint32_t kThreadSlots = kMaxListCapacity / kListThreads;

// Followed by the two bitmaps.
struct alignas(128) SelectionStorage {
  BinStorage bins;  // then the winners' positions
  uint64_t ranked[kRankedKeys];
  uint64_t last_winner;
  uint32_t num_ranked;
  uint32_t greatest;  // key
  uint32_t warp_sums[2][1][kSelectThreads / 32];
  uint32_t positions[kThreadSlots][kSelectThreads];  // of the candidates, for those who hold them
};
static_assert(kMaxFusedTopk <= kBins, "Winners' positions lie where the bins were.");

// Of a thread: its share of a list. 16 threads take neighbouring lists, whose candidates lie side
// by side.
class ThreadCandidates {
 public:
  __device__ __forceinline__ ThreadCandidates(SelectionStorage& shared, SelectArgs const& args,
                                              int32_t scan_row)
      : shared_(shared) {
    uint32_t const list = threadIdx.x % kRowLists;
    uint16_t const* const counts = args.counts + int64_t{scan_row} * kParts * kRowLists + list;
    uint32_t const first = counts[0];
    number_ = first + counts[kRowLists];
    longest_ = __reduce_max_sync(kAllLanes, number_);
    int32_t const last_slot = args.list_capacity - 1;
    Candidate const* const slots = args.lists +
                                   (int64_t{scan_row} * indexer::kMathWarps + list / kListLanes) *
                                       args.list_capacity * kListLanes +
                                   list % kListLanes;
    // All loads are in flight before the first is waited for.
    uint2 loaded[kThreadSlots];
    for_each_batch([&](uint32_t i) {
      uint32_t const index = threadIdx.x / kRowLists + i * kListThreads;
      uint32_t const slot = index < first ? index : last_slot - (index - first);
      if (index < number_) {
        loaded[i] = __ldcs(reinterpret_cast<uint2 const*>(slots + slot * kListLanes));
      }
    });
    for_each_batch([&](uint32_t i) {
      uint32_t const index = threadIdx.x / kRowLists + i * kListThreads;
      keys_[i] = index < number_ ? key_of(__uint_as_float(loaded[i].x)) : kNoKey;
      shared.positions[i][threadIdx.x] = loaded[i].y;
    });
  }
  // Of this thread's list; of one thread of a list, and 0 for the others.
  __device__ __forceinline__ uint32_t number() const {
    return threadIdx.x < kRowLists ? number_ : 0;
  }
  // A list that is just full might have lost some.
  __device__ __forceinline__ bool overflows(int32_t capacity) const {
    return number_ >= static_cast<uint32_t>(capacity);
  }

  __device__ __forceinline__ uint32_t position(uint32_t slot) const {
    return shared_.positions[slot][threadIdx.x];
  }

  // Of all threads, when they have synchronised. The value is 0 before.
  __device__ __forceinline__ void raise_to_greatest(uint32_t* greatest) const {
    uint32_t own = 0;
    visit([&](uint32_t key, uint32_t) { own = max(own, key); });
    own = __reduce_max_sync(kAllLanes, own);
    if (threadIdx.x % 32 == 0) atomicMax(greatest, own);
  }

  // Calls take(key, slot) for each.
  template <class Take>
  __device__ __forceinline__ void visit(Take const& take) const {
    for_each_batch([&](uint32_t i) {
      if (keys_[i] != kNoKey) take(keys_[i], i);
    });
  }

 private:
  static constexpr uint32_t kBatch = 4;
  static_assert(kThreadSlots % kBatch == 0 && kMaxListCapacity % kListThreads == 0);

  // Calls body(slot) for slots that a thread of the warp has a candidate for.
  template <class Body>
  __device__ __forceinline__ void for_each_batch(Body const& body) const {
#pragma unroll
    for (uint32_t first = 0; first < kThreadSlots; first += kBatch) {
      if (first * kListThreads >= longest_) continue;  // the same in the whole warp
#pragma unroll
      for (uint32_t i = first; i < first + kBatch; ++i) body(i);
    }
  }

  SelectionStorage& shared_;
  uint32_t keys_[kThreadSlots];
  uint32_t number_;
  uint32_t longest_;  // of the warp's lists
};

// Which candidates win: keys from first_greater on, keys from `threshold` on before tie_end, and
// the first `ties` keys that are the threshold.
struct Winners {
  uint32_t first_greater;
  uint32_t threshold;
  uint32_t tie_end;
  uint32_t ties;
};

// The candidate sought in a bin of up to kRankedKeys: greater keys come first, then lower
// positions.
__device__ __forceinline__ Winners rank_inside(SelectionStorage& shared,
                                               ThreadCandidates const& candidates, Bin const& bin) {
  uint32_t const width = ~(~0u << bin.shift);
  candidates.visit([&](uint32_t key, uint32_t slot) {
    if (key - bin.low > width) return;
    uint32_t const position = candidates.position(slot);
    shared.ranked[atomicAdd(&shared.num_ranked, 1u)] = static_cast<uint64_t>(key) << 32 | ~position;
  });
  __syncthreads();
  if (threadIdx.x < bin.inside) {
    uint64_t const own = shared.ranked[threadIdx.x];
    uint32_t better = 0;
#pragma unroll 1
    for (uint32_t i = 0; i < bin.inside; ++i) better += shared.ranked[i] > own ? 1 : 0;
    if (better + 1 == bin.rank) shared.last_winner = own;
  }
  __syncthreads();
  uint32_t const key = static_cast<uint32_t>(shared.last_winner >> 32);
  return Winners{key + 1, key, ~static_cast<uint32_t>(shared.last_winner) + 1, 0};
}

// Among candidates from `low` on, at least top_k.
__device__ __forceinline__ Winners find_winners(SelectionStorage& shared,
                                                ThreadCandidates const& candidates, uint32_t low,
                                                uint32_t top_k) {
  int const bits = 32 - __clz((shared.greatest - low) | 1);
  auto const settled = [](Bin const& bin) { return bin.rank == bin.inside; };
  Bin const bin = narrow<kSelectThreads>(
      shared.bins, Bin{low, bits, top_k, 0}, 0,
      [&](auto const& count) {
        candidates.visit([&](uint32_t key, uint32_t) {
          if (key >= low) count(key);
        });
      },
      [&](Bin const& bin) {
        return bin.shift < bits && (settled(bin) || bin.inside <= kRankedKeys);
      });
  if (settled(bin)) return Winners{bin.low, bin.low, 0, 0};
  if (bin.inside <= kRankedKeys) return rank_inside(shared, candidates, bin);
  return Winners{bin.low + 1, bin.low, 0, bin.rank};
}

// Winners of a crowd gate: if fewer than top_k exceed the tie, its first positions fill up.
__device__ __forceinline__ Winners find_winners(SelectionStorage& shared,
                                                ThreadCandidates const& candidates,
                                                RowGate const& gate, uint32_t top_k) {
  uint32_t low = key_of(gate.high);
  if (gate.low_end > 0) {
    uint32_t const tie = key_of(gate.low);
    uint32_t greater[1] = {0};
    candidates.visit([&](uint32_t key, uint32_t) { greater[0] += key > tie ? 1 : 0; });
    BlockSums<kSelectThreads, 1> const sums(shared.warp_sums[1], greater);
    if (sums.total[0] < top_k) return Winners{tie + 1, tie, 0, top_k - sums.total[0]};
    low = tie + 1;
  }
  return find_winners(shared, candidates, low, top_k);
}

// The lowest `number` bits of a word.
__device__ __forceinline__ uint32_t lowest_bits(uint32_t word, uint32_t number) {
  uint32_t rest = word;
  for (uint32_t i = 0; i < number && rest != 0; ++i) rest &= rest - 1;
  return word ^ rest;
}

// Writes the winners' positions in the row in ascending order to shared memory, a window of the
// bitmaps at a time. Bitmaps are zero; barriers of a window: the zeros; the set bits; the block's
// sum.
__device__ __forceinline__ void order(SelectionStorage& shared, uint32_t* bitmap, uint32_t* ties,
                                      uint32_t window_words, ThreadCandidates const& candidates,
                                      Winners const& wins, RowRange const& range) {
  constexpr uint32_t kWords = kMaxWindowWords / kSelectThreads;  // of a thread
  uint32_t const row_words = (static_cast<uint32_t>(range.length) + 31) / 32;
  uint32_t emitted = 0;
  uint32_t tied = 0;
  int window = 0;
#pragma unroll 1
  for (uint32_t first_word = 0; first_word < row_words; first_word += window_words, ++window) {
    uint32_t const num_words = min(row_words - first_word, window_words);
    if (window > 0) __syncthreads();
    candidates.visit([&](uint32_t key, uint32_t slot) {
      if (key < wins.threshold) return;
      uint32_t const position = candidates.position(slot);
      bool const is_greater =
          key >= wins.first_greater || (wins.ties == 0 && position < wins.tie_end);
      if (!is_greater && wins.ties == 0) return;
      uint32_t const bit = position - range.start;
      uint32_t const word = bit / 32 - first_word;
      if (word >= num_words) return;
      atomicOr(&(is_greater ? bitmap : ties)[bitmap_place(word)], 1u << bit % 32);
    });
    __syncthreads();
    uint32_t const own = (num_words + kSelectThreads - 1) / kSelectThreads;
    uint32_t const first = opaque(threadIdx.x) * own;
    uint32_t const end = min(first + own, num_words);
    uint32_t counts[1] = {0};  // ties in the high half
#pragma unroll
    for (uint32_t i = 0; i < kWords; ++i) {
      if (first + i >= end) continue;
      counts[0] += __popc(bitmap[bitmap_place(first + i)]);
      if (wins.ties > 0) counts[0] += __popc(ties[bitmap_place(first + i)]) << 16;
    }
    BlockSums<kSelectThreads, 1> const sums(shared.warp_sums[window % 2], counts);
    uint32_t tie_rank = tied + (sums.before[0] >> 16);
    uint32_t rank = emitted + (sums.before[0] & 0xFFFF) + min(tie_rank, wins.ties);
#pragma unroll 1
    for (uint32_t word = first; word < end; ++word) {
      uint32_t bits = bitmap[bitmap_place(word)];
      bitmap[bitmap_place(word)] = 0;
      if (wins.ties > 0) {
        uint32_t const tie_bits = ties[bitmap_place(word)];
        ties[bitmap_place(word)] = 0;
        bits |= lowest_bits(tie_bits, wins.ties - min(tie_rank, wins.ties));
        tie_rank += __popc(tie_bits);
      }
#pragma unroll 1
      while (bits != 0) {
        shared.bins.bins[rank++] = (first_word + word) * 32 + __ffs(bits) - 1;
        bits &= bits - 1;
      }
    }
    emitted += sums.total[0] & 0xFFFF;
    tied += sums.total[0] >> 16;
  }
}

__device__ __forceinline__ void leave_to_rescore(SelectArgs const& args, int32_t scan_row) {
  int32_t const tile_row = args.first_tile_row + scan_row;
  int32_t const tile = tile_row / kTileRows;
  if (atomicOr(&args.redo.rows[tile], 1 << tile_row % kTileRows) == 0) {
    args.redo.tiles[atomicAdd(args.redo.count, 1)] = tile;
  }
}

__global__ void __launch_bounds__(kSelectThreads, 2)
    list_topk_kernel(__grid_constant__ SelectArgs const args) {
  extern __shared__ __align__(128) unsigned char memory[];
  SelectionStorage& shared = *reinterpret_cast<SelectionStorage*>(memory);
  uint32_t const window_words = args.topk.window_words;
  uint32_t* const bitmap = reinterpret_cast<uint32_t*>(memory + sizeof(SelectionStorage));
  uint32_t* const ties = bitmap + bitmap_place(window_words);

  clear_bitmap<kSelectThreads>(bitmap, window_words);
  if (threadIdx.x == 0) {
    shared.num_ranked = 0;
    shared.greatest = 0;
  }
  ptx::wait_for_prior_kernels();
  ptx::launch_dependent_kernels();
  int32_t const scan_row = blockIdx.x;
  int32_t const row = args.first_row + scan_row;
  RowRange const range(args.topk, row);
  if (range.length <= args.topk.top_k) {
    write_whole_row<kSelectThreads>(
        args.topk, range, SlotMap(args.topk, row), 0, 1,
        args.topk.indices + int64_t{row} * args.topk.indices_row_stride);
    return;
  }
  RowGate const gate = args.gates[scan_row];
  ThreadCandidates const candidates(shared, args, scan_row);
  bool const overflows = __syncthreads_or(candidates.overflows(args.list_capacity));
  candidates.raise_to_greatest(&shared.greatest);
  uint32_t const number[1] = {candidates.number()};
  BlockSums<kSelectThreads, 1> const sums(shared.warp_sums[0], number);
  uint32_t const top_k = args.topk.top_k;
  if (overflows || sums.total[0] < top_k) {
    if (threadIdx.x == 0) leave_to_rescore(args, scan_row);
    return;
  }
  Winners const wins = find_winners(shared, candidates, gate, top_k);
  if (wins.ties > 0) {
    clear_bitmap<kSelectThreads>(ties, window_words);
    __syncthreads();
  }
  order(shared, bitmap, ties, window_words, candidates, wins, range);
  __syncthreads();
  int32_t const own_row = args.first_row + static_cast<int32_t>(opaque(blockIdx.x));
  int32_t* const indices = args.topk.indices + int64_t{own_row} * args.topk.indices_row_stride;
  SlotMap const slot(args.topk, own_row);
  for (uint32_t i = threadIdx.x; i < top_k; i += kSelectThreads) {
    indices[i] = slot(shared.bins.bins[i]);
  }
}

}  // namespace dsa_ops::topk_sm90::fused
