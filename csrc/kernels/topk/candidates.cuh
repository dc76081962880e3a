// The logits of a block's slice that may be among the row's best, and the order of those that are.
#pragma once
#include <cstdint>

#include "kernels/topk/bins.cuh"
#include "kernels/topk/block_scan.cuh"
#include "kernels/topk/candidates.h"
#include "kernels/topk/cluster_select.cuh"
#include "kernels/topk/keys.cuh"

namespace dsa_ops::topk_sm90 {

// Where a block's candidates go.
struct CandidateStore {
  Candidate* list;
  uint32_t* count;  // beyond the capacity if not all fit
  uint32_t capacity;

  // Takes the logits that pass, in any order. A NaN never passes.
  template <int kLogits>
  __device__ __forceinline__ void append(float gate, float const (&logits)[kLogits],
                                         int const (&positions)[kLogits]) const {
    uint32_t passing = 0;
#pragma unroll
    for (int i = 0; i < kLogits; ++i) passing += logits[i] >= gate ? 1 : 0;
    if (passing == 0) return;
    uint32_t place = atomicAdd(count, passing);
    if (place + passing > capacity) return;
#pragma unroll
    for (int i = 0; i < kLogits; ++i) {
      if (logits[i] >= gate) {
        list[place++] = Candidate{__float_as_uint(logits[i]), static_cast<uint32_t>(positions[i])};
      }
    }
  }
};

// Calls visit(i) for multiples i of kStep, as long as any thread has a candidate threadIdx.x +
// i * kThreads: lists are far from full as a rule.
template <int kThreads, int kKeys, int kStep, class Visit>
__device__ __forceinline__ void visit_held(uint32_t count, Visit const& visit) {
  static_assert(kKeys % kStep == 0);
#pragma unroll
  for (int i = 0; i < kKeys; i += kStep) {
    if (i * kThreads >= count) break;
    visit(i);
  }
}

// The first of the candidates of a thread, which are kThreads apart. Lanes' lie 33 apart: those of
// a list in order, such as ties, would otherwise set bits of one word of the bitmap.
template <int kThreads>
__device__ __forceinline__ uint32_t first_held() {
  return opaque(threadIdx.x) * 33 % kThreads;
}

// keys[i] becomes that of candidate first + i * kThreads, or kNoKey past the last.
template <int kThreads, int kKeys>
__device__ __forceinline__ void load_keys(uint32_t (&keys)[kKeys], Candidate const* list,
                                          uint32_t count, uint32_t first) {
#pragma unroll
  for (uint32_t& key : keys) key = kNoKey;
  visit_held<kThreads, kKeys, 2>(count, [&](int i) {
    uint32_t const index = first + i * kThreads;
    uint32_t const pair[2] = {list[index].bits, list[index + kThreads].bits};  // none past the list
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      keys[i + j] = index + j * kThreads < count ? key_of(__uint_as_float(pair[j])) : kNoKey;
    }
  });
}

// Which candidates win: those above a key, and those equal to it below a position of the slice.
struct WinnerRule {
  uint32_t first_greater;
  uint32_t threshold;
  uint32_t tie_end;

  __device__ __forceinline__ bool operator()(uint32_t key, uint32_t position) const {
    return key >= first_greater || (key >= threshold && position < tie_end);
  }
};

// keys[i] is that of own[i * kThreads]. By all threads of the block; barriers only if ties have to
// be told apart.
template <int kThreads, int kKeys, class WarpSums>
__device__ __forceinline__ WinnerRule winner_rule(BinStorage& bins, WarpSums& warp_sums,
                                                  Candidate const* own,
                                                  uint32_t const (&keys)[kKeys],
                                                  Verdict const& verdict, int slice_count) {
  WinnerRule rule{verdict.threshold, verdict.threshold, 0};
  if (verdict.settled) return rule;
  rule.first_greater = verdict.threshold + 1;
  uint32_t const winning = verdict.ties - min(verdict.ties, verdict.equal_before);
  if (winning == 0) return rule;
  auto const visit = [&](auto const& visit_position) {
#pragma unroll
    for (int i = 0; i < kKeys; ++i) {
      if (keys[i] == verdict.threshold) visit_position(own[i * kThreads].position);
    }
  };
  uint32_t equal[1] = {0};
  visit([&](uint32_t) { ++equal[0]; });
  BlockSums<kThreads, 1> const sums(warp_sums, equal);
  rule.tie_end = slice_count;
  if (sums.total[0] <= winning) return rule;
  uint32_t const last = slice_count - 1;
  Bin const bin = narrow<kThreads>(
      bins, Bin{0, 32 - __clz(last), winning, 0}, 0,
      [&](auto const& count_value) {  // values that descend as positions ascend
        visit([&](uint32_t position) { count_value(last - position); });
      },
      [](Bin const&) { return false; });
  rule.tie_end = last - bin.low + 1;
  return rule;
}

// Word w of the bitmap lies at a place that keeps threads which walk several words each apart.
__device__ __forceinline__ uint32_t bitmap_place(uint32_t word) { return word + word / 32; }

template <int kThreads>
__device__ __forceinline__ void clear_bitmap(uint32_t* bitmap, int num_words) {
  for (int i = threadIdx.x; i < num_words + num_words / 32; i += kThreads) bitmap[i] = 0;
}

// Calls take(word, position) for the winners whose word of the bitmap is one of num_words from
// first_word on: the word counted from there.
template <int kThreads, int kKeys, class Take>
__device__ __forceinline__ void visit_winners(Candidate const* list, uint32_t count,
                                              uint32_t const (&keys)[kKeys], WinnerRule const& wins,
                                              uint32_t first_word, uint32_t num_words,
                                              Take const& take) {
  Candidate const* const own = list + first_held<kThreads>();
  visit_held<kThreads, kKeys, 2>(count, [&](int i) {
    uint32_t const pair[2] = {own[i * kThreads].position, own[(i + 1) * kThreads].position};
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      uint32_t const word = pair[j] / 32 - first_word;
      if (word < num_words && wins(keys[i + j], pair[j])) take(word, pair[j]);
    }
  });
}

// Where the winners of a slice are put in order: a window of their bitmap, and ranks of its words.
struct WinnerOrder {
  uint32_t* bitmap;
  uint16_t* ranks;
  uint32_t window_words;
  bool crowded;  // many winners share a word
};

// Writes the positions of a window's winners, each by the thread that holds it.
template <int kThreads, int kKeys>
__device__ __forceinline__ void write_held(WinnerOrder const& order, Candidate const* list,
                                           uint32_t count, uint32_t const (&keys)[kKeys],
                                           WinnerRule const& wins, uint32_t first_word,
                                           uint32_t num_words, int32_t* winners) {
  visit_winners<kThreads>(
      list, count, keys, wins, first_word, num_words, [&](uint32_t word, uint32_t position) {
        uint32_t const lower = order.bitmap[bitmap_place(word)] & ((1u << position % 32) - 1);
        winners[order.ranks[word] + __popc(lower)] = static_cast<int32_t>(position);
      });
}

// Writes the winners' positions in the slice to `winners` in ascending order, a window of the
// bitmap at a time, and returns their number. A thread writes those of its words; if winners are
// crowded, those that it holds, so that no thread has many more than others. Barriers of a window:
// the cleared bitmap; the set bits; the block's sum; the ranks, if crowded.
template <int kThreads, int kKeys, class WarpSums>
__device__ __forceinline__ uint32_t order_winners(WarpSums (&warp_sums)[2],
                                                  WinnerOrder const& order, Candidate const* list,
                                                  uint32_t count, uint32_t const (&keys)[kKeys],
                                                  WinnerRule const& wins, int slice_count,
                                                  int32_t* winners) {
  uint32_t* const bitmap = order.bitmap;
  uint32_t const slice_words = (static_cast<uint32_t>(slice_count) + 31) / 32;
  uint32_t emitted = 0;
  int window = 0;
#pragma unroll 1
  for (uint32_t first_word = 0; first_word < slice_words;
       first_word += order.window_words, ++window) {
    uint32_t const num_words = min(slice_words - first_word, order.window_words);
    if (window > 0) __syncthreads();
    visit_winners<kThreads>(list, count, keys, wins, first_word, num_words,
                            [&](uint32_t word, uint32_t position) {
                              atomicOr(&bitmap[bitmap_place(word)], 1u << position % 32);
                            });
    __syncthreads();
    uint32_t const words_per_thread = (num_words + kThreads - 1) / kThreads;
    uint32_t const begin = min(threadIdx.x * words_per_thread, num_words);
    uint32_t const end = min(begin + words_per_thread, num_words);
    uint32_t counts[1] = {0};
#pragma unroll 1
    for (uint32_t word = begin; word < end; ++word) {
      counts[0] += __popc(bitmap[bitmap_place(word)]);
    }
    BlockSums<kThreads, 1> const sums(warp_sums[1 - window % 2], counts);
    uint32_t rank = emitted + sums.before[0];
    if (order.crowded) {
#pragma unroll 1
      for (uint32_t word = begin; word < end; ++word) {
        order.ranks[word] = static_cast<uint16_t>(rank);
        rank += __popc(bitmap[bitmap_place(word)]);
      }
      __syncthreads();
      write_held<kThreads>(order, list, count, keys, wins, first_word, num_words, winners);
      if (first_word + num_words < slice_words) {
        __syncthreads();
        clear_bitmap<kThreads>(bitmap, num_words);
      }
    } else {
#pragma unroll 1
      for (uint32_t word = begin; word < end && counts[0] > 0; ++word) {
        uint32_t bits = bitmap[bitmap_place(word)];
        bitmap[bitmap_place(word)] = 0;
#pragma unroll 1
        while (bits != 0) {
          winners[rank++] = (first_word + word) * 32 + __ffs(bits) - 1;
          bits &= bits - 1;
        }
      }
    }
    emitted += sums.total[0];
  }
  return emitted;
}

}  // namespace dsa_ops::topk_sm90
