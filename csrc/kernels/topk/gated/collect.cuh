// The candidates of a block's slice: the logits that pass a gate; and, where those do not settle
// the row, the slice's first ties or its best.
#pragma once
#include <cstdint>

#include "kernels/topk/bins.cuh"
#include "kernels/topk/block_scan.cuh"
#include "kernels/topk/candidates.cuh"
#include "kernels/topk/gated/traits.h"
#include "kernels/topk/keys.cuh"
#include "kernels/topk/row_slice.cuh"

namespace dsa_ops::topk_sm90::gated {

// A thread's packets, kDepth of them in flight.
template <LogitsType kType, int kThreads, int kDepth>
struct Stream {
  using P = Packet<kType>;
  static constexpr int kBatch = kBatchLogits / P::kLogits;
  static_assert(kDepth % kBatch == 0);

  uint4 packets[kDepth];

  template <int kFrom, int kTo>
  __device__ __forceinline__ void begin(Slice<kType> const& slice) {
#pragma unroll
    for (int i = kFrom; i < kTo; ++i) load(slice, i, threadIdx.x + i * kThreads);
  }
  __device__ __forceinline__ void load(Slice<kType> const& slice, int place, int packet) {
    packets[place] = make_uint4(~0u, ~0u, ~0u, ~0u);  // NaNs: no gate lets them pass
    if (packet < slice.num_packets) packets[place] = load_packet(slice.packet(packet));
  }
};

// Lists the logits of the slice that pass, as their bits. A NaN never passes.
template <LogitsType kType, int kThreads, int kDepth>
__device__ __forceinline__ void collect(CandidateStore const& store, Slice<kType> const& slice,
                                        Stream<kType, kThreads, kDepth>& stream, float gate) {
  using P = Packet<kType>;
  constexpr int kBatch = Stream<kType, kThreads, kDepth>::kBatch;
  int const thread = threadIdx.x;
#pragma unroll 1
  for (int first = 0; first < slice.num_packets; first += kDepth * kThreads) {
#pragma unroll
    for (int step = 0; step < kDepth; step += kBatch) {
      float logits[kBatchLogits];
      int positions[kBatchLogits];
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        P::unpack(stream.packets[step + i], &logits[i * P::kLogits]);
        int const packet = first + (step + i) * kThreads + thread;
#pragma unroll
        for (int j = 0; j < P::kLogits; ++j) {
          positions[i * P::kLogits + j] = slice.head + packet * P::kLogits + j;
        }
      }
      store.append(gate, logits, positions);
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        stream.load(slice, step + i, first + (kDepth + step + i) * kThreads + thread);
      }
    }
  }
  // What lies before and after the packets, fewer than two packets in all.
  int const tail = slice.num_packets * P::kLogits;
  int const index = thread < slice.head ? thread : thread + tail;
  if (thread < 2 * P::kLogits && index < slice.count) {
    float const logits[1] = {slice[index]};
    int const positions[1] = {index};
    store.append(gate, logits, positions);
  }
}

// Reads the slice from its start and calls emit(rank, key, position) for the first `ties` keys in
// [threshold, first_greater) and, unless kTiesOnly, for keys >= first_greater, until `wanted` are
// found. Returns how many were. One barrier per step.
template <int kThreads, bool kTiesOnly, LogitsType kType, class Emit>
__device__ __forceinline__ uint32_t scan_in_order(
    typename BlockSums<kThreads, 1>::WarpSums (&warp_sums)[2], Slice<kType> const& slice,
    uint32_t first_greater, uint32_t threshold, uint32_t ties, uint32_t wanted, Emit const& emit) {
  constexpr int kOwn = 4;  // neighbouring logits
  int const first = static_cast<int>(opaque(threadIdx.x)) * kOwn;
  uint32_t greater = 0;
  uint32_t equal = 0;
#pragma unroll 1
  for (int begin = 0, step = 0; begin < slice.count && greater + min(equal, ties) < wanted;
       begin += kOwn * kThreads, ++step) {
    int const position = begin + first;
    uint32_t keys[kOwn];
    uint32_t counts[1] = {0};  // greater in the low half, equal in the high half
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      keys[i] = position + i < slice.count ? key_of(slice[position + i]) : kNoKey;
      if (!kTiesOnly && keys[i] >= first_greater) counts[0] += 1;
      if (keys[i] >= threshold && keys[i] < first_greater) counts[0] += 1 << 16;
    }
    BlockSums<kThreads, 1> const sums(warp_sums[step % 2], counts);
    uint32_t rank = greater + (sums.before[0] & 0xFFFF);
    uint32_t equal_rank = equal + (sums.before[0] >> 16);
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      bool const is_equal = keys[i] >= threshold && keys[i] < first_greater;
      bool const is_greater = !kTiesOnly && keys[i] >= first_greater;
      if (is_greater || (is_equal && equal_rank < ties)) {
        emit(rank + min(equal_rank, ties), keys[i], position + i);
      }
      rank += is_greater ? 1 : 0;
      equal_rank += is_equal ? 1 : 0;
    }
    greater += sums.total[0] & 0xFFFF;
    equal += sums.total[0] >> 16;
  }
  return greater + min(equal, ties);
}

// Calls emit(rank, key, position) for the slice's top_k best in order, whatever the data: counting
// passes over the slice, then one in order. Returns their number. The caller synchronises before
// and after.
template <int kThreads, class Storage, LogitsType kType, class Emit>
__device__ __forceinline__ uint32_t find_best(Storage& shared, Slice<kType> const& slice, int top_k,
                                              Emit const& emit) {
  uint32_t first_greater = 1;
  uint32_t threshold = 1;
  uint32_t ties = 0;
  if (slice.count > top_k) {
    auto const visit = [&](auto const& count) {
#pragma unroll 4
      for (int i = threadIdx.x; i < slice.count; i += kThreads) count(key_of(slice[i]));
    };
    Bin const bin = narrow<kThreads>(shared.bins, Bin{0, 32, static_cast<uint32_t>(top_k), 0}, 0,
                                     visit, [](Bin const& bin) { return bin.rank == bin.inside; });
    // A bin that wins as a whole needs no tie.
    threshold = bin.low;
    first_greater = bin.low + (bin.rank == bin.inside ? 0 : 1);
    ties = bin.rank;
  }
  return scan_in_order<kThreads, false>(shared.warp_sums, slice, first_greater, threshold, ties,
                                        min(top_k, slice.count), emit);
}

template <int kThreads, class Storage, LogitsType kType>
__device__ __forceinline__ uint32_t list_best(Storage& shared, Candidate* list,
                                              Slice<kType> const& slice, int top_k) {
  return find_best<kThreads>(shared, slice, top_k, [&](uint32_t rank, uint32_t key, int position) {
    list[rank] = Candidate{__float_as_uint(logit_of(key)), static_cast<uint32_t>(position)};
  });
}

// Notes which logits of the thread's first packet are the tie beneath the gate, if the k-th best
// may be that and no logits come before those packets.
template <LogitsType kType, class Storage>
__device__ __forceinline__ void note_ties(Storage& shared, Slice<kType> const& slice,
                                          uint4 const& packet) {
  if (!shared.gate.maybe_tied || slice.head != 0) return;
  float const tie = logit_of(shared.gate.key - 1);
  float logits[Packet<kType>::kLogits];
  Packet<kType>::unpack(packet, logits);
  uint32_t bits = 0;
#pragma unroll
  for (int i = 0; i < Packet<kType>::kLogits; ++i) bits |= logits[i] == tie ? 1u << i : 0;
  shared.tie_bits[opaque(threadIdx.x)] = static_cast<uint8_t>(bits);
  if (threadIdx.x == 0) shared.ties_noted = true;
}

// Appends the first `wanted` of the ties that have been noted; false if there are fewer. Barriers:
// the sum; the list.
template <LogitsType kType, int kThreads, class Storage>
__device__ __forceinline__ bool list_noted_ties(Storage& shared, Candidate* list, uint32_t tie,
                                                uint32_t wanted) {
  uint32_t bits = shared.tie_bits[opaque(threadIdx.x)];
  uint32_t const counts[1] = {static_cast<uint32_t>(__popc(bits))};
  BlockSums<kThreads, 1> const sums(shared.warp_sums[1], counts);
  if (sums.total[0] < wanted) return false;
#pragma unroll 1
  for (uint32_t rank = sums.before[0]; bits != 0 && rank < wanted; bits &= bits - 1, ++rank) {
    uint32_t const position = opaque(threadIdx.x) * Packet<kType>::kLogits + __ffs(bits) - 1;
    list[rank] = Candidate{__float_as_uint(logit_of(tie)), position};
  }
  __syncthreads();
  return true;
}

// Appends the slice's first `wanted` keys equal to `tie` to `count` candidates; returns how many
// there were.
template <int kThreads, class Storage, LogitsType kType>
__device__ __forceinline__ uint32_t list_ties(Storage& shared, Candidate* list, uint32_t count,
                                              Slice<kType> const& slice, uint32_t tie,
                                              uint32_t wanted) {
  return scan_in_order<kThreads, true>(shared.warp_sums, slice, tie + 1, tie, wanted, wanted,
                                       [&](uint32_t rank, uint32_t, int position) {
                                         list[count + rank] =
                                             Candidate{__float_as_uint(logit_of(tie)),
                                                       static_cast<uint32_t>(position)};
                                       });
}

}  // namespace dsa_ops::topk_sm90::gated
