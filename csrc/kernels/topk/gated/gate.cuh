// A gate that about a row's best 1.5 k logits pass, found from a sample; and the logits that pass.
#pragma once
#include <cstdint>

#include "device/ptx/cluster.cuh"
#include "device/ptx/mbarrier.cuh"
#include "kernels/topk/block_scan.cuh"
#include "kernels/topk/gated/row.cuh"
#include "kernels/topk/gated/select.cuh"
#include "kernels/topk/gated/traits.h"
#include "kernels/topk/keys.cuh"

namespace dsa_ops::topk_sm90::gated {

struct Gate {
  float logit;       // this and better pass
  bool above_tie;    // the gate is just above a logit that many share
  uint32_t tie_key;  // that logit's
};

// How many of a row's samples the gate should pass: as many as k keys of the row have among them on
// average, and four deviations of that number more.
__device__ __forceinline__ uint32_t gate_rank(int32_t length, int top_k) {
  float const samples = kSampleChunks << sample_chunk_log2(length);
  float const expected = __fdividef(top_k * samples, length);
  return static_cast<uint32_t>(expected + 4.0f * expected * rsqrtf(expected) + 4.0f);
}

// The gate is the rank-th best sample, or up to a quarter of the rank below it. A crowd of equal
// samples there puts it just above them.
template <LogitsType kType>
__device__ __forceinline__ Gate find_gate(SharedStorage& shared, uint32_t* histogram,
                                          uint32_t* samples, Row<kType> const& row, uint32_t rank) {
  constexpr int kBatch = 4;
  int const chunk_log2 = sample_chunk_log2(row.length);
  int const num_samples = kSampleChunks << chunk_log2;
  uint32_t best = 0;
  for (int first = threadIdx.x; first < num_samples; first += kBatch * kThreads) {
    float logits[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      int const index = first + i * kThreads;
      uint32_t const chunk = index >> chunk_log2;
      // Chunks lie at a scrambled place each within equal parts of the row, as a fixed distance
      // could meet a period of the data.
      uint32_t const begin = (static_cast<uint64_t>(row.length) * chunk) / kSampleChunks;
      uint32_t const places = row.length / kSampleChunks - (1 << chunk_log2) + 1;
      uint32_t const place = __umulhi(chunk * 0x9E3779B1u, places);
      if (index < num_samples) logits[i] = row[begin + place + index % (1 << chunk_log2)];
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      int const index = first + i * kThreads;
      if (index < num_samples) {
        samples[index] = key_of(logits[i]);
        best = max(best, samples[index]);
      }
    }
  }
  // The worst of the bests of 128 groups has 127 better samples at least: a bound for small ranks.
  uint32_t group_best = max(best, __shfl_xor_sync(kAllLanes, best, 1));
  group_best = max(group_best, __shfl_xor_sync(kAllLanes, group_best, 2));
  Extent const extent = find_extent(shared, best, group_best);
  Bin bin{rank <= kThreads / 4 ? extent.worst : kWorstKey, 0, rank, 0};
  uint32_t range = extent.best - bin.low;
  while (true) {
    bin = find_rank(
        shared, histogram, num_samples, [&](int i) { return samples[i]; }, bin.low, range,
        bin.rank);
    uint32_t const passing = rank - bin.rank + bin.inside;
    if (passing <= rank + rank / 4) return Gate{logit_of(bin.low), false, 0};
    if (bin.shift == 0) return Gate{logit_of(bin.low + 1), true, bin.low};
    range = (1u << bin.shift) - 1;
  }
}

// Where candidates go: the cluster's first block.
template <int kClusterSize>
struct CandidateStore {
  uint32_t keys;  // shared addresses
  uint32_t positions;
  uint32_t count;
  uint32_t capacity;

  __device__ CandidateStore(SharedStorage& shared, Candidates const& candidates, int max_candidates)
      : keys(address(candidates.keys)),
        positions(address(candidates.positions)),
        count(address(&shared.num_candidates)),
        capacity(max_candidates) {}

  static __device__ __forceinline__ uint32_t address(uint32_t const* local) {
    uint32_t const own = ptx::shared_address(local);
    return kClusterSize == 1 ? own : ptx::map_to_rank(own, 0);
  }
  // Takes `number` slots and returns the first.
  __device__ __forceinline__ uint32_t reserve(uint32_t number) const {
    return kClusterSize == 1 ? ptx::add_shared(count, number) : ptx::add_cluster(count, number);
  }
  // `offset` is 4 times the slot.
  __device__ __forceinline__ void put(uint32_t offset, float logit, int32_t position) const {
    if constexpr (kClusterSize == 1) {
      ptx::store_shared(keys + offset, __float_as_uint(logit));
      ptx::store_shared(positions + offset, position);
    } else {
      ptx::store_cluster(keys + offset, __float_as_uint(logit));
      ptx::store_cluster(positions + offset, position);
    }
  }
};

template <LogitsType kType>
__device__ __forceinline__ void load_tile(float (&logits)[kLogitsPerThread], Row<kType> const& row,
                                          int32_t begin) {
  int32_t const remaining = row.length - begin;
  auto const* const first = row.logits + begin + threadIdx.x;
  if (remaining >= kTileLogits) {
#pragma unroll
    for (int i = 0; i < kLogitsPerThread; ++i) logits[i] = row.load(first + i * kThreads);
  } else {
#pragma unroll
    for (int i = 0; i < kLogitsPerThread; ++i) {
      bool const inside = static_cast<int>(threadIdx.x) + i * kThreads < remaining;
      logits[i] = inside ? row.load(first + i * kThreads) : __uint_as_float(0x7FFFFFFFu);
    }
  }
}

// Stores the logits that pass of this block's tiles: `rank`, `rank` + kClusterSize and so on, of
// which the caller has loaded the first, if there is one, into `next`. A NaN never passes. More
// than fit are only counted.
template <int kClusterSize, LogitsType kType>
__device__ __forceinline__ void collect(CandidateStore<kClusterSize> const& store,
                                        Row<kType> const& row, int rank, float gate,
                                        float (&next)[kLogitsPerThread]) {
  int const lane = threadIdx.x % 32;
  int32_t const num_tiles = (row.length - 1) / kTileLogits + 1;
#pragma unroll 1
  for (int32_t tile = rank; tile < num_tiles; tile += kClusterSize) {
    float logits[kLogitsPerThread];
#pragma unroll
    for (int i = 0; i < kLogitsPerThread; ++i) logits[i] = next[i];
    if (tile + kClusterSize < num_tiles) {
      load_tile(next, row, (tile + kClusterSize) * kTileLogits);
    }
    uint32_t passing = 0;
#pragma unroll
    for (int i = 0; i < kLogitsPerThread; ++i) passing += logits[i] >= gate ? 1 : 0;
    uint32_t const inclusive = warp_inclusive_sum(passing, lane);
    uint32_t const total = __shfl_sync(kAllLanes, inclusive, 31);
    if (total == 0) continue;
    uint32_t base = 0;
    if (lane == 0) base = store.reserve(total);
    base = __shfl_sync(kAllLanes, base, 0);
    if (base + total > store.capacity) continue;
    uint32_t offset = 4 * (base + inclusive - passing);
    int32_t const first = tile * kTileLogits + threadIdx.x;
#pragma unroll
    for (int i = 0; i < kLogitsPerThread; ++i) {
      if (logits[i] >= gate) {
        store.put(offset, logits[i], first + i * kThreads);
        offset += 4;
      }
    }
  }
}

// Stores a whole row, which fits.
template <int kClusterSize, LogitsType kType>
__device__ __forceinline__ void collect_all(CandidateStore<kClusterSize> const& store,
                                            Row<kType> const& row, int rank) {
  int32_t const num_tiles = (row.length - 1) / kTileLogits + 1;
#pragma unroll 1
  for (int32_t tile = rank; tile < num_tiles; tile += kClusterSize) {
    float logits[kLogitsPerThread];
    load_tile(logits, row, tile * kTileLogits);
#pragma unroll
    for (int i = 0; i < kLogitsPerThread; ++i) {
      int32_t const position = tile * kTileLogits + threadIdx.x + i * kThreads;
      if (position < row.length) store.put(4 * position, logits[i], position);
    }
  }
}

}  // namespace dsa_ops::topk_sm90::gated
