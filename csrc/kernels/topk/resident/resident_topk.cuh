// indices[t, :] = ascending positions (or slots) of the top_k best of logits[t, start(t) : end(t)].
//
// A cluster of kClusterSize blocks takes one row, a block one contiguous slice of it, whose keys
// its threads hold in registers: a logit is read once, and all loads are in flight at once. A
// sample gives an interval of keys, the cluster selects the k-th best from there, each block
// compacts its own winners. No roles and no pipeline.
//
// Registers: kKeys for keys. Shared memory: SharedStorage. Barriers are described where they stand.
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
// before the slice. A warp has 32 * kKeys neighbours, a tile of them 32 packets.
template <LogitsType kType, int kKeys>
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
  // Index in the slice of the first logit of a warp, of a thread's packet.
  __device__ __forceinline__ int warp_first() const {
    return static_cast<int>(threadIdx.x) / 32 * 32 * kKeys - shift;
  }
  __device__ __forceinline__ int first(int tile) const {
    int const lane = static_cast<int>(threadIdx.x) % 32;
    return warp_first() + (tile * 32 + lane) * P::kLogits;
  }

  // The slice's first `valid` logits hold all of the warp.
  __device__ __forceinline__ bool whole(int valid) const {
    return warp_first() >= 0 && warp_first() + 32 * kKeys <= valid;
  }
  __device__ __forceinline__ void load(float (&values)[kKeys]) const {
    if (whole(count)) {
#pragma unroll
      for (int tile = 0; tile < kKeys / P::kLogits; ++tile) {
        P::unpack(load_packet(logits + first(tile)), &values[tile * P::kLogits]);
      }
      return;
    }
#pragma unroll
    for (int i = 0; i < kKeys; ++i) {
      int const index = first(i / P::kLogits) + i % P::kLogits;
      bool const inside = 0 <= index && index < count;
      values[i] = inside ? P::logit(logits[index]) : no_logit();
    }
  }

  // Keys of the slice's first `valid` logits, kNoKey for what else was loaded.
  __device__ __forceinline__ void make_keys(uint32_t (&keys)[kKeys], float const (&values)[kKeys],
                                            int valid) const {
#pragma unroll
    for (int i = 0; i < kKeys; ++i) keys[i] = key_of(values[i]);
    if (whole(valid)) return;
#pragma unroll
    for (int i = 0; i < kKeys; ++i) {
      int const index = first(i / P::kLogits) + i % P::kLogits;
      if (index < 0 || index >= valid) keys[i] = kNoKey;
    }
  }
};

template <LogitsType kType, int kClusterSize, int kThreads, int kKeys>
__global__ void __launch_bounds__(kThreads)
    resident_topk_kernel(__grid_constant__ KernelArgs const args) {
  using P = Packet<kType>;
  using Element = typename P::Element;
  using Storage = SharedStorage<kClusterSize, kThreads, kKeys>;
  using Ranks = TileRanks<P::kLogits, kKeys / P::kLogits>;
  extern __shared__ __align__(128) unsigned char memory[];
  Storage& shared = *reinterpret_cast<Storage*>(memory);

  int32_t const row = blockIdx.x / kClusterSize;
  int const rank = blockIdx.x % kClusterSize;
  ptx::wait_for_prior_kernels();

  // Rows that start at zero are cut by the width of the logits, so that their loads need not wait
  // for the row's end.
  bool const from_zero = args.row_starts == nullptr;
  RowRange range{};
  if (!from_zero) range = RowRange(args, row);
  int const span = from_zero ? args.num_columns : range.length;
  Element const* const logits = static_cast<Element const*>(args.logits) +
                                int64_t{row} * args.logits_row_stride +
                                (from_zero ? 0 : range.start);
  Packets<kType, kKeys> const packets(logits, span, rank, kClusterSize);
  RowSample<kType, kThreads> const sample(logits, kClusterSize > 1 ? span : 0);
  float values[kKeys];
  packets.load(values);
  // While the loads are on their way.
  ClusterSelect<kClusterSize, kThreads> selector(shared.select, args.top_k);
  prepare_guess<kThreads>(shared.bins);
  if (from_zero) range = RowRange(args, opaque(blockIdx.x) / kClusterSize);
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
  uint32_t const mask = winner_mask<Ranks, kThreads>(shared.warp_values[0], keys, verdict);
  Ranks const ranks(mask);
  int const lane = threadIdx.x % 32;
  uint16_t* const winners = shared.winners[threadIdx.x / 32];
  ranks.visit(mask, [&](int bit, uint32_t rank) {
    winners[rank] = (bit / P::kLogits * 32 + lane) * P::kLogits + bit % P::kLogits;
  });
  uint32_t const count = ranks.total();
  uint32_t const first =
      first_winner(verdict) + sum_of_lower_warps<kThreads>(shared.warp_values[1], count);
  int32_t const own_row = opaque(blockIdx.x) / kClusterSize;
  SlotMap const slot(args, own_row);
  int32_t* const indices = args.indices + int64_t{own_row} * args.indices_row_stride + first;
  int const begin = packets.begin + packets.warp_first();
  for (uint32_t i = lane; i < count; i += 32) indices[i] = slot(begin + winners[i]);
}

}  // namespace dsa_ops::topk_sm90::resident
