// Rows whose k-th best is the tie just beneath the gate: no key is counted, as all candidates win,
// and the first ties of the row.
#pragma once
#include <cstdint>

#include "device/ptx/cluster.cuh"
#include "device/ptx/mbarrier.cuh"
#include "kernels/topk/block_scan.cuh"
#include "kernels/topk/candidates.cuh"
#include "kernels/topk/gated/traits.h"
#include "kernels/topk/packet.cuh"

namespace dsa_ops::topk_sm90::gated {

// Of a block that cannot say: more than any top_k, and the sum over a cluster fits a word.
inline constexpr uint32_t kNoTally = 1u << 24;

// A block's winners, in order in shared memory: where they begin in the row's, and their number.
struct OrderedWinners {
  uint32_t first;
  uint32_t number;
};
inline constexpr uint32_t kNotOrdered = ~0u;  // as `first`

// What the blocks of a row have found.
struct RowTally {
  uint32_t candidates;         // of the row
  uint32_t candidates_before;  // of the blocks of lower rank
  uint32_t first_ties;         // noted by the first block
};

// Before the cluster meets.
template <int kClusterSize, class Storage>
__device__ __forceinline__ void prepare_tally(Storage& shared) {
  if constexpr (kClusterSize > 1) {
    if (threadIdx.x == 0) {
      ptx::mbarrier_init(&shared.tally_barrier, 1);
      ptx::fence_mbarrier_init();
    }
  }
}

// Tells all blocks of the row what this one has found, itself included. A block leaves no earlier
// than it has read what is sent to it.
template <int kClusterSize, class Storage>
__device__ __forceinline__ void send_tally(Storage& shared, uint2 own) {
  if constexpr (kClusterSize > 1) {
    if (threadIdx.x == 0) {
      ptx::mbarrier_arrive_expect_tx(&shared.tally_barrier, kClusterSize * sizeof(uint2));
    }
    if (threadIdx.x < kClusterSize) {
      uint32_t const place = ptx::shared_address(&shared.tallies[blockIdx.x % kClusterSize]);
      uint32_t const barrier = ptx::shared_address(&shared.tally_barrier);
      ptx::store_async(ptx::map_to_rank(place, threadIdx.x), own,
                       ptx::map_to_rank(barrier, threadIdx.x));
    }
  }
}

template <int kClusterSize, class Storage>
__device__ __forceinline__ RowTally receive_tallies(Storage& shared, uint2 own) {
  if constexpr (kClusterSize == 1) {
    return RowTally{own.x, 0, own.y};
  } else {
    uint32_t const lane = threadIdx.x % 32;
    ptx::mbarrier_wait_cluster(&shared.tally_barrier, 0);
    uint2 const one = lane < kClusterSize ? shared.tallies[lane] : make_uint2(0, 0);
    return RowTally{__reduce_add_sync(kAllLanes, one.x),
                    __reduce_add_sync(kAllLanes, lane < blockIdx.x % kClusterSize ? one.x : 0),
                    __shfl_sync(kAllLanes, one.y, 0)};
  }
}

// Leaves the first `wanted` of the set bits.
__device__ __forceinline__ uint32_t first_bits(uint32_t bits, uint32_t wanted) {
  uint32_t rest = bits;
#pragma unroll 1
  for (uint32_t i = 0; i < wanted && rest != 0; ++i) rest &= rest - 1;
  return bits ^ rest;
}

// Sets the bits of the bitmap that the threads' bits of the slice's first packets stand for.
template <int kLogits>
__device__ __forceinline__ void set_packet_bits(uint32_t* bitmap, uint32_t bits) {
  constexpr int kSharers = 32 / kLogits;  // of a word
  uint32_t const thread = opaque(threadIdx.x);
  uint32_t word = bits << thread % kSharers * kLogits;
#pragma unroll
  for (int i = 1; i < kSharers; i *= 2) word |= __shfl_xor_sync(kAllLanes, word, i);
  if (thread % kSharers == 0 && word != 0) atomicOr(&bitmap[bitmap_place(thread / kSharers)], word);
}

// Puts the positions whose bits are set in order in `winners`, each by the thread that has it: a
// candidate, or a bit of its packet. Returns their number. Barriers: their sum; the ranks; the
// winners.
template <int kLogits, int kThreads, class Storage>
__device__ __forceinline__ uint32_t order_set_bits(Storage& shared, uint32_t const* bitmap,
                                                   uint32_t num_words, Candidate const* list,
                                                   uint32_t count, uint32_t bits,
                                                   int32_t* winners) {
  uint32_t const thread = opaque(threadIdx.x);
  uint32_t const words_per_thread = (num_words + kThreads - 1) / kThreads;
  uint32_t const begin = min(thread * words_per_thread, num_words);
  uint32_t const end = min(begin + words_per_thread, num_words);
  uint32_t set[1] = {0};
#pragma unroll 1
  for (uint32_t word = begin; word < end; ++word) set[0] += __popc(bitmap[bitmap_place(word)]);
  BlockSums<kThreads, 1> const sums(shared.warp_sums[0], set);
  uint16_t* const ranks = reinterpret_cast<uint16_t*>(shared.bins.bins);
  uint32_t rank = sums.before[0];
#pragma unroll 1
  for (uint32_t word = begin; word < end; ++word) {
    ranks[word] = static_cast<uint16_t>(rank);
    rank += __popc(bitmap[bitmap_place(word)]);
  }
  __syncthreads();
  auto const put = [&](uint32_t position) {
    uint32_t const word = position / 32;
    uint32_t const lower = bitmap[bitmap_place(word)] & ((1u << position % 32) - 1);
    winners[ranks[word] + __popc(lower)] = static_cast<int32_t>(position);
  };
#pragma unroll 1
  for (uint32_t i = thread; i < count; i += kThreads) put(list[i].position);
#pragma unroll 1
  for (; bits != 0; bits &= bits - 1) put(thread * kLogits + __ffs(bits) - 1);
  __syncthreads();
  return sums.total[0];
}

// Orders the block's winners if the row's k-th best is the tie and the row's first packets have
// enough of it; if not, the bitmap is clear again. Once a row. Barriers: the ties' sum; the bits;
// those of the order. A function of its own, as other rows would have to jump over it, 64 x
// 32K 12.5 microseconds instead of 12.2; it is given no addresses, as those would be generic.
template <LogitsType kType, int kClusterSize, int kThreads>
__device__ __noinline__ OrderedWinners order_tied(uint32_t top_k, uint32_t capacity,
                                                  uint32_t window_words) {
  using Storage = SharedStorage<kClusterSize, kThreads>;
  constexpr int kLogits = Packet<kType>::kLogits;
  extern __shared__ __align__(128) unsigned char memory[];
  Storage& shared = *reinterpret_cast<Storage*>(memory);
  Candidate* const list = reinterpret_cast<Candidate*>(memory + sizeof(Storage));
  uint32_t* const bitmap = reinterpret_cast<uint32_t*>(list + capacity);
  bool const is_first = blockIdx.x % kClusterSize == 0;
  uint32_t const thread = opaque(threadIdx.x);
  uint32_t const count = shared.num_candidates;
  uint32_t const num_words = (static_cast<uint32_t>(shared.slice_count) + 31) / 32;
  bool const fits = count <= capacity && num_words <= window_words;
  uint32_t bits = is_first && shared.ties_noted ? shared.tie_bits[thread] : 0;
  uint32_t const counts[1] = {static_cast<uint32_t>(__popc(bits))};
  BlockSums<kThreads, 1> const ties(shared.warp_sums[1], counts);
  uint2 const own = make_uint2(fits ? count : kNoTally, ties.total[0]);
  send_tally<kClusterSize>(shared, own);
#pragma unroll 1
  for (uint32_t i = thread; fits && i < count; i += kThreads) {
    uint32_t const position = list[i].position;
    atomicOr(&bitmap[bitmap_place(position / 32)], 1u << position % 32);
  }
  RowTally const tally = receive_tallies<kClusterSize>(shared, own);
  uint32_t const wanted = top_k - tally.candidates;  // of the ties
  if (tally.candidates >= top_k || wanted > tally.first_ties) {
    __syncthreads();
    clear_bitmap<kThreads>(bitmap, window_words);
    __syncthreads();
    return OrderedWinners{kNotOrdered, 0};
  }
  if (is_first) {
    bits = first_bits(bits, wanted - min(wanted, ties.before[0]));
    set_packet_bits<kLogits>(bitmap, bits);
  }
  __syncthreads();
  int32_t* const winners = reinterpret_cast<int32_t*>(bitmap + window_words + window_words / 32);
  uint32_t const number =
      order_set_bits<kLogits, kThreads>(shared, bitmap, num_words, list, count, bits, winners);
  return OrderedWinners{tally.candidates_before + (is_first ? 0 : wanted), number};
}

}  // namespace dsa_ops::topk_sm90::gated
