// The exact threshold of a row: a radix select over the keys of a cluster's blocks.
//
// A round histograms one digit of the keys that share the threshold's resolved digits, then one
// warp of each block finds the bin in which the k-th best key lies. Every block of the cluster
// reads the same histograms and reaches the same result, so a round costs one cluster barrier: 64
// coarse sums per block lead to the 32 bins that matter, and nothing else crosses between
// multiprocessors.
#pragma once
#include <cstdint>

#include "device/ptx/cluster.cuh"
#include "device/ptx/mbarrier.cuh"
#include "kernels/topk/histogram.cuh"
#include "kernels/topk/resident/slice.cuh"
#include "kernels/topk/resident/traits.h"

namespace dsa_ops::topk_sm90::resident {

// Keys lie in groups of 8 quads; the quads of group g are permuted by g % 8, so that 8 lanes which
// read the same quad of 8 groups meet no bank conflict.
__device__ __forceinline__ int swizzled_quad(int quad) { return quad ^ (quad / 8 % 8); }

// Counts the digit of a round in the keys whose higher digits are the threshold's. Adding a
// constant 1 with no result lets the hardware merge the lanes of a warp that meet in one bin.
struct DigitCounter {
  uint32_t* histogram;
  uint32_t threshold;
  uint32_t max_offset;
  int shift;

  __device__ DigitCounter(uint32_t* bins, uint32_t selected, int round)
      : histogram(bins),
        threshold(selected),
        max_offset(round == 0 ? ~0u : (1u << digit_shift(round - 1)) - 1),
        shift(digit_shift(round)) {}

  __device__ __forceinline__ void count(uint32_t key) const {
    uint32_t const offset = key ^ threshold;
    if (offset <= max_offset) atomicAdd(&histogram[offset >> shift], 1u);
  }
  __device__ __forceinline__ void count(uint4 keys) const {
    count(keys.x);
    count(keys.y);
    count(keys.z);
    count(keys.w);
  }

  // Round 0, where every key counts.
  __device__ __forceinline__ void count_all(uint4 keys) const {
    atomicAdd(&histogram[keys.x >> digit_shift(0)], 1u);
    atomicAdd(&histogram[keys.y >> digit_shift(0)], 1u);
    atomicAdd(&histogram[keys.z >> digit_shift(0)], 1u);
    atomicAdd(&histogram[keys.w >> digit_shift(0)], 1u);
  }
};

// A lane's bin, or pair of neighbouring bins, summed over the cluster and over the lower ranks.
struct BinSums {
  uint2 total;
  uint2 lower;
};

template <int kClusterSize>
__device__ __forceinline__ BinSums sum_bin_pair(uint32_t const* pair, int rank) {
  if constexpr (kClusterSize == 1) {
    return BinSums{*reinterpret_cast<uint2 const*>(pair), make_uint2(0, 0)};
  } else {
    BinSums sums{};
#pragma unroll
    for (int peer = 0; peer < kClusterSize; ++peer) {
      uint2 const bins = ptx::load_cluster_pair(ptx::map_to_rank(ptx::shared_address(pair), peer));
      sums.total.x += bins.x;
      sums.total.y += bins.y;
      sums.lower.x += peer < rank ? bins.x : 0;
      sums.lower.y += peer < rank ? bins.y : 0;
    }
    return sums;
  }
}

template <int kClusterSize>
__device__ __forceinline__ uint2 sum_bin(uint32_t const* bin, int rank) {  // {total, lower}
  if constexpr (kClusterSize == 1) {
    return make_uint2(*bin, 0);
  } else {
    uint2 sums{};
#pragma unroll
    for (int peer = 0; peer < kClusterSize; ++peer) {
      uint32_t const count = ptx::load_cluster(ptx::map_to_rank(ptx::shared_address(bin), peer));
      sums.x += count;
      sums.y += peer < rank ? count : 0;
    }
    return sums;
  }
}

// One warp.
template <int kClusterSize>
__device__ __forceinline__ void find_bin(SharedStorage& shared, int buffer, int shift, int rank,
                                         Selection const& selection) {
  int const lane = threadIdx.x;
  BinSums const pair =
      sum_bin_pair<kClusterSize>(&shared.coarse[buffer][coarse_pair_of(lane)], rank);
  CoarseHit const coarse = find_coarse(pair.total, selection.remaining, lane);
  uint32_t lower_above = 0;
  if (lane < coarse.lane) lower_above = pair.lower.x + pair.lower.y;
  if (lane == coarse.lane && !coarse.in_high) lower_above = pair.lower.y;

  int const bin = bin_of(coarse.coarse, lane);
  uint2 const sums = sum_bin<kClusterSize>(&shared.histogram[buffer][bin], rank);
  FineHit const fine = find_fine(sums.x, coarse.above, selection.remaining, lane);
  if (lane < fine.lane) lower_above += sums.y;
  if constexpr (kClusterSize > 1) lower_above = __reduce_add_sync(kAllLanes, lower_above);
  if (lane == fine.lane) {
    uint32_t const remaining = selection.remaining - fine.above;
    shared.selection =
        Selection{selection.threshold | static_cast<uint32_t>(bin) << shift, remaining,
                  selection.greater_before + lower_above, sums.y, sums.x == remaining};
  }
}

// Ends a round whose digits this block has counted in histogram[round % 2]. Barriers of a round:
//   1. __syncthreads: the block's counts are complete.
//   2. the cluster's release/acquire barrier: histogram and coarse sums of all blocks are visible.
//      It also ends the peers' reads of the other buffer, made before they arrived here, so that
//      buffer may be cleared from here on.
//   3. __syncthreads: the selection and the cleared buffer are visible in the block.
template <int kClusterSize>
__device__ __forceinline__ Selection finish_round(SharedStorage& shared, int round, int rank,
                                                  Selection const& selection) {
  int const buffer = round % 2;
  __syncthreads();
  sum_coarse_bins(shared.coarse[buffer], shared.histogram[buffer]);
  if constexpr (kClusterSize == 1) {
    __syncthreads();
  } else {
    __syncwarp();
    ptx::cluster_arrive_release();
    ptx::cluster_wait_acquire();
  }
  if (threadIdx.x < 32) {
    find_bin<kClusterSize>(shared, buffer, digit_shift(round), rank, selection);
  } else if (round + 1 < kRounds) {
    clear_histogram(shared.histogram[1 - buffer], threadIdx.x - 32, kThreads - 32);
  }
  __syncthreads();
  return shared.selection;
}

// A digit after the first, of the keys in shared memory. Reads a batch before it counts, as no load
// may pass an atomic. kNoKey matches no threshold once its first digit is known.
__device__ __forceinline__ void count_resident(DigitCounter const& counter, uint4 const* key_quads,
                                               int num_quads) {
  constexpr int kBatch = 4;
  for (int first = threadIdx.x; first < num_quads; first += kBatch * kThreads) {
    uint4 keys[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      int const quad = first + i * kThreads;
      keys[i] = quad < num_quads ? key_quads[quad] : make_uint4(kNoKey, kNoKey, kNoKey, kNoKey);
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) counter.count(keys[i]);
  }
}

// Finds the cluster's k-th best key. The slice's first `resident` keys, whole packets, are loaded
// into shared memory on the way; keys that do not fit are read again from the logits in every
// round.
template <int kClusterSize, LogitsType kType>
__device__ __forceinline__ Selection select_threshold(SharedStorage& shared, uint4* key_quads,
                                                      Slice<kType> const& slice, int resident,
                                                      int rank, int top_k) {
  constexpr int kPacketKeys = Slice<kType>::kPacketKeys;
  clear_histogram(shared.histogram[0], threadIdx.x, kThreads);
  __syncthreads();
  Selection selection{0, static_cast<uint32_t>(top_k), 0, 0, 0};
#pragma unroll 1
  for (int round = 0; round < kRounds && !selection.settled; ++round) {
    DigitCounter const counter(shared.histogram[round % 2], selection.threshold, round);
    if (round == 0) {
      visit_packets(slice, 0, resident / kPacketKeys, [&](int quad, uint4 keys) {
        key_quads[swizzled_quad(quad)] = keys;
        counter.count_all(keys);
      });
    } else {
      count_resident(counter, key_quads, resident / 4);
    }
    if (resident < slice.keys) {
      visit_packets(slice, resident / kPacketKeys, slice.keys / kPacketKeys,
                    [&](int, uint4 keys) { counter.count(keys); });
    }
    selection = finish_round<kClusterSize>(shared, round, rank, selection);
  }
  return selection;
}

}  // namespace dsa_ops::topk_sm90::resident
