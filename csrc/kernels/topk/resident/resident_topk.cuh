// indices[t, :] = ascending positions (or slots) of the top_k best of logits[t, start(t) : end(t)].
//
// A cluster of kClusterSize blocks takes one row, a block one contiguous slice of it, whose keys
// its threads hold in registers: a logit is read once, and all loads are in flight at once. A
// sample gives an interval of keys, the cluster selects the k-th best from there, each block
// compacts its own winners. No roles and no pipeline.
//
// Registers: kKeys for keys. Shared memory: SharedStorage, 4 * top_k. Barriers are described where
// they stand.
#pragma once
#include <cstdint>

#include "device/ptx/grid.cuh"
#include "kernels/topk/cluster_select.cuh"
#include "kernels/topk/guess.cuh"
#include "kernels/topk/keys.cuh"
#include "kernels/topk/packet.cuh"
#include "kernels/topk/resident/compact.cuh"
#include "kernels/topk/resident/sample.cuh"
#include "kernels/topk/resident/traits.h"
#include "kernels/topk/row_range.cuh"
#include "kernels/topk/row_slice.cuh"

namespace dsa_ops::topk_sm90::resident {

// A block's slice of a row in packets cut at 16-byte addresses: packet 0 starts `shift` logits
// before the slice.
template <LogitsType kType, int kThreads>
struct Packets {
  using P = Packet<kType>;
  using Element = typename P::Element;

  Element const* logits;  // of the slice's first logit
  int begin;              // its position in the row
  int count;
  int shift;

  __device__ Packets(Element const* row, int span, int rank, int cluster_size) {
    int const length = slice_length(span, cluster_size);
    begin = rank * length;
    count = max(min(span - begin, length), 0);
    logits = row + begin;
    shift = static_cast<int>(reinterpret_cast<uintptr_t>(logits) / sizeof(Element) % P::kLogits);
  }
  // Index in the slice of the first logit of a thread's packet.
  __device__ __forceinline__ int first(int tile) const {
    return (tile * kThreads + static_cast<int>(threadIdx.x)) * P::kLogits - shift;
  }

  template <int kKeys>
  __device__ __forceinline__ void load(float (&values)[kKeys]) const {
#pragma unroll
    for (int tile = 0; tile < kKeys / P::kLogits; ++tile) {
      int const index = first(tile);
      float* const packet = &values[tile * P::kLogits];
      if (index >= 0 && index + P::kLogits <= count) {
        P::unpack(load_packet(logits + index), packet);
      } else {
#pragma unroll
        for (int i = 0; i < P::kLogits; ++i) {
          bool const inside = 0 <= index + i && index + i < count;
          packet[i] = inside ? P::logit(logits[index + i]) : no_logit();
        }
      }
    }
  }

  // Keys of the slice's first `valid` logits, kNoKey for what else was loaded.
  template <int kKeys>
  __device__ __forceinline__ void make_keys(uint32_t (&keys)[kKeys], float const (&values)[kKeys],
                                            int valid) const {
#pragma unroll
    for (int i = 0; i < kKeys; ++i) {
      int const index = first(i / P::kLogits) + i % P::kLogits;
      bool const inside = 0 <= index && index < valid;
      keys[i] = inside ? key_of(values[i]) : kNoKey;
    }
  }
};

template <LogitsType kType, int kClusterSize, int kThreads, int kKeys, int kMinBlocks>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    resident_topk_kernel(__grid_constant__ KernelArgs const args) {
  using P = Packet<kType>;
  using Element = typename P::Element;
  using Storage = SharedStorage<kClusterSize, kThreads, tile_words(kKeys / P::kLogits)>;
  extern __shared__ __align__(128) unsigned char memory[];
  Storage& shared = *reinterpret_cast<Storage*>(memory);
  int32_t* const winners = reinterpret_cast<int32_t*>(memory + sizeof(Storage));

  int32_t const row = blockIdx.x / kClusterSize;
  int const rank = blockIdx.x % kClusterSize;
  ptx::wait_for_prior_kernels();

  // Rows that start at zero are cut by the width of the logits, so that their loads need not wait
  // for the row's end.
  RowRange const range(args, row);
  bool const from_zero = args.row_starts == nullptr;
  int const span = from_zero ? args.num_columns : range.length;
  Element const* const logits = static_cast<Element const*>(args.logits) +
                                int64_t{row} * args.logits_row_stride +
                                (from_zero ? 0 : range.start);
  Packets<kType, kThreads> const packets(logits, span, rank, kClusterSize);
  RowSample<kType, kThreads> const sample(logits, kClusterSize > 1 ? span : 0);
  float values[kKeys];
  packets.load(values);
  // While the loads are on their way.
  ClusterSelect<kClusterSize, kThreads> selector(shared.select, args.top_k);
  prepare_guess<kThreads>(shared.bins);
  if (threadIdx.x == 0) shared.first_position = packets.begin - packets.shift;
  __syncthreads();

  if (range.length <= args.top_k) {
    selector.wait_for_cluster();
    write_whole_row<kThreads>(args, range, SlotMap(args, row), rank, kClusterSize,
                              args.indices + int64_t{row} * args.indices_row_stride);
    return;
  }
  uint32_t keys[kKeys];
  packets.make_keys(keys, values, min(range.length - packets.begin, packets.count));
  Interval interval;
  if constexpr (kClusterSize == 1) {
    interval = guess_from_keys<kThreads>(shared.bins, keys, args.top_k);
  } else {
    interval = sample.guess(shared.bins, range.length, span, args.top_k);
  }
  selector.wait_for_cluster();
  while (!selector.select(keys, interval)) continue;

  Verdict const verdict = selector.verdict();
  int const first_position = shared.first_position;
  uint32_t count;
  if (verdict.settled) {
    count = compact_settled<kThreads, P::kLogits>(shared.warp_sums, keys, verdict.threshold,
                                                  first_position, winners);
  } else {
    count = compact_tied<kThreads, P::kLogits>(shared.warp_sums, keys, verdict, first_position,
                                               winners);
  }
  __syncthreads();
  int32_t const own_row = opaque(blockIdx.x) / kClusterSize;
  SlotMap const slot(args, own_row);
  int32_t* const indices =
      args.indices + int64_t{own_row} * args.indices_row_stride + first_winner(verdict);
  for (uint32_t i = threadIdx.x; i < count; i += kThreads) indices[i] = slot(winners[i]);
}

}  // namespace dsa_ops::topk_sm90::resident
