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

template <LogitsType kType>
__global__ void __launch_bounds__(kThreads, 1)
    binned_topk_kernel(__grid_constant__ KernelArgs const args) {
  using Packets = HeldPackets<kType, kThreadKeys>;
  using Element = typename Packets::Element;
  extern __shared__ __align__(128) unsigned char memory[];
  BucketStorage& shared = *reinterpret_cast<BucketStorage*>(memory);

  touch_width(args);
  ptx::wait_for_prior_kernels();
  // The loads of rows that start at zero need not wait for the row's end.
  bool const from_zero = args.row_starts == nullptr;
  int32_t const end = given_end(args, blockIdx.x);
  RowRange range{};
  if (!from_zero) range = RowRange(args, blockIdx.x, end);
  int const span = from_zero ? args.num_columns : range.length;
  Element const* const logits = static_cast<Element const*>(args.logits) +
                                int64_t{blockIdx.x} * args.logits_row_stride +
                                (from_zero ? 0 : range.start);
  float const sample = finite(sample_of_thread<kType>(logits, span));
  // While the samples are on their way.
  if (threadIdx.x < kBuckets / 4) {
    reinterpret_cast<uint4*>(shared.counts)[threadIdx.x] = make_uint4(0, 0, 0, 0);
  }
  prepare_output(args, shared.select);
  if (from_zero) range = RowRange(args, opaque(blockIdx.x), end);
  SampleRanks const ranks(args.top_k, range.length, kSamples);
  // The row's loads wait for the thread's sample, which would come later if they did not.
  // Microseconds with 0, 1, 2, 3 of four float32 packets ahead: 128 x 8K 8.2, 8.4, 8.6, 8.7, 1 x 8K
  // 6.8, 6.7, 6.8, 6.8.
  Packets packets(logits, span);
  packets.logits += zero_after(sample);
  float values[kThreadKeys];
  packets.load(values);
  // Barriers: the samples; their order.
  uint32_t const sample_key = announce_sample(shared, sample);
  __syncthreads();
  sort_samples(shared, sample, sample_key);
  if (__builtin_expect(range.length <= args.top_k, 0)) {
    write_whole_row<kThreads>(args, range, SlotMap(args, blockIdx.x), 0, 1,
                              args.indices + int64_t{blockIdx.x} * args.indices_row_stride);
    return;
  }
  __syncthreads();
  BucketMap const map(ranks, shared.sorted);
  packets.drop_beyond(values, range.length);
  write_kept<kType>(args, shared, map, packets, values, range.length);
}

}  // namespace dsa_ops::topk_sm90::binned
