// indices[t, :] = ascending positions (or slots) of the top_k best of logits[t, start(t) : end(t)].
//
// A block takes one row, which its threads hold in registers: a logit is read once, and all loads
// are in flight at once. The order of 128 samples gives a map of values to buckets before the row
// is here, which count logits and keep them, so that every warp finds the k-th best by itself as
// soon as the block has met once.
//
// Registers: a word per key. Shared memory: BucketStorage. Barriers are described where they stand.
#pragma once
#include <cstdint>

#include "device/ptx/grid.cuh"
#include "kernels/topk/binned/bin_map.cuh"
#include "kernels/topk/binned/buckets.cuh"
#include "kernels/topk/binned/traits.h"
#include "kernels/topk/binned/write_best.cuh"
#include "kernels/topk/binned/write_kept.cuh"
#include "kernels/topk/held_packets.cuh"
#include "kernels/topk/packet.cuh"
#include "kernels/topk/row_range.cuh"

namespace dsa_ops::topk_sm90::binned {

// A logit of the lane-th part of the row, at a scrambled place.
template <LogitsType kType, class Element>
__device__ __forceinline__ float sample_of_lane(Element const* row, int span) {
  uint32_t const part = static_cast<uint32_t>(span) / 32;
  if (part == 0) return 0;
  uint32_t const lane = threadIdx.x % 32;
  return Packet<kType>::logit(row[part * lane + __umulhi((lane + 1) * 0x9E3779B1u, part)]);
}

// The row of a block.
template <LogitsType kType>
struct Row {
  using Packets = HeldPackets<kType, kThreadKeys>;
  using Element = typename Packets::Element;

  // The loads of rows that start at zero need not wait for the row's end.
  bool from_zero;
  int32_t end;
  RowRange range{};
  int span;
  Element const* logits;

  __device__ __forceinline__ explicit Row(KernelArgs const& args)
      : from_zero(args.row_starts == nullptr), end(given_end(args, blockIdx.x)) {
    if (!from_zero) range = RowRange(args, blockIdx.x, end);
    span = from_zero ? args.num_columns : range.length;
    logits = static_cast<Element const*>(args.logits) +
             int64_t{blockIdx.x} * args.logits_row_stride + (from_zero ? 0 : range.start);
  }
  __device__ __forceinline__ void find_range(KernelArgs const& args) {
    if (from_zero) range = RowRange(args, opaque(blockIdx.x), end);
  }
  // True if all of the row wins: then it is written.
  __device__ __forceinline__ bool write_whole(KernelArgs const& args) const {
    if (__builtin_expect(range.length > args.top_k, 1)) return false;
    write_whole_row<kThreads>(args, range, SlotMap(args, blockIdx.x), 0, 1,
                              args.indices + int64_t{blockIdx.x} * args.indices_row_stride);
    return true;
  }
};

// Barriers: the samples; their order; those of write_kept().
template <LogitsType kType>
__device__ __forceinline__ void select_kept(KernelArgs const& args, BucketStorage& shared) {
  Row<kType> row(args);
  float const sample = finite(sample_of_thread<kType>(row.logits, row.span));
  // While the samples are on their way.
  if (threadIdx.x < kBuckets / 4) {
    reinterpret_cast<uint4*>(shared.counts)[threadIdx.x] = make_uint4(0, 0, 0, 0);
  }
  prepare_output(args, shared.select);
  row.find_range(args);
  SampleRanks const ranks(args.top_k, row.range.length, kSamples);
  // The row's loads wait for the thread's sample, which would come later if they did not.
  // Microseconds with 0, 1, 2, 3 of four float32 packets ahead: 128 x 8K 8.2, 8.4, 8.6, 8.7, 1 x 8K
  // 6.8, 6.7, 6.8, 6.8.
  typename Row<kType>::Packets packets(row.logits, row.span);
  packets.logits += zero_after(sample);
  float values[kThreadKeys];
  packets.load(values);
  uint32_t const sample_key = announce_sample(shared, sample);
  __syncthreads();
  sort_samples(shared, sample, sample_key);
  if (row.write_whole(args)) return;
  __syncthreads();
  BucketMap const map(ranks, shared.sorted);
  packets.drop_beyond(values, row.range.length);
  write_kept<kType>(args, shared, map, packets, values, row.range.length);
}

// Barriers: the samples' order; those of write_best().
template <LogitsType kType>
__device__ __forceinline__ void select_counted(KernelArgs const& args, SharedStorage& shared) {
  // The last packets wait for the samples, which would come later if they did not.
  constexpr int kTiles = Row<kType>::Packets::kTiles;
  Row<kType> row(args);
  float const sample = sample_of_lane<kType>(row.logits, row.span);
  typename Row<kType>::Packets const packets(row.logits, row.span);
  float values[kThreadKeys];
  packets.template load_tiles<0, kTiles - 1>(values);
  // While the loads are on their way.
  for (int i = opaque(threadIdx.x); i < kValueBins / 4; i += kThreads) {
    reinterpret_cast<uint4*>(shared.bins)[i] = make_uint4(0, 0, 0, 0);
  }
  prepare_output(args, shared);
  row.find_range(args);
  SampleRanks const ranks(args.top_k, row.range.length, 32);
  sort_by_warps<kWarps>(shared.samples, finite(sample));
  __syncthreads();
  packets.template load_tiles<kTiles - 1, kTiles>(values);
  if (row.write_whole(args)) return;
  BinMap const bin_of(ranks, [&](int rank) { return shared.samples[rank]; });
  packets.drop_beyond(values, row.range.length);
  write_best<kType, false>(args, shared, bin_of, packets, values, row.range.length);
}

template <LogitsType kType>
__global__ void __launch_bounds__(kThreads, 1)
    binned_topk_kernel(__grid_constant__ KernelArgs const args) {
  extern __shared__ __align__(128) unsigned char memory[];
  BucketStorage& shared = *reinterpret_cast<BucketStorage*>(memory);
  touch_width(args);
  ptx::wait_for_prior_kernels();
  if constexpr (kType == LogitsType::kFloat32) {
    select_kept<kType>(args, shared);
  } else {
    select_counted<kType>(args, shared.select);
  }
}

}  // namespace dsa_ops::topk_sm90::binned
