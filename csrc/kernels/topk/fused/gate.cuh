// The gates of the rows, from the logits of a sample of their keys.
#pragma once
#include <cmath>
#include <cstdint>

#include "device/ptx/grid.cuh"
#include "kernels/topk/bins.cuh"
#include "kernels/topk/block_scan.cuh"
#include "kernels/topk/fused/args.h"
#include "kernels/topk/fused/sample.cuh"
#include "kernels/topk/fused/work.cuh"
#include "kernels/topk/keys.cuh"

namespace dsa_ops::topk_sm90::fused {

inline constexpr int kGateThreads = kSearchThreads;

struct GateStorage {
  BinStorage bins;
  WorkStorage<kGateThreads> work;
  uint32_t least, greatest;  // key in a bin
  int32_t low_end;
};

// The sample of a row.
struct RowSample {
  float const* logits;
  int32_t first;  // its place in the sample of all keys
  int32_t count;
};

// How many of a sample to expect, and not to fall short of, where the keys have `keys`.
__device__ __forceinline__ float sample_rank(float keys, float density, float share_of_row) {
  float const expected = keys * density;
  return expected + 4.5f * sqrtf(expected * (1.0f - share_of_row)) + 3.0f;
}

// Whether all samples in a bin are equal: it takes two more steps to find that by narrowing.
template <class Visit>
__device__ __forceinline__ bool is_single_key(GateStorage& shared, Bin const& bin,
                                              Visit const& visit) {
  uint32_t const width = ~(~0u << bin.shift);
  uint32_t least = ~0u;
  uint32_t greatest = 0;
  visit([&](uint32_t key) {
    if (key - bin.low > width) return;
    least = min(least, key);
    greatest = max(greatest, key);
  });
  least = __reduce_min_sync(kAllLanes, least);
  greatest = __reduce_max_sync(kAllLanes, greatest);
  if (threadIdx.x % 32 == 0) {
    atomicMin(&shared.least, least);
    atomicMax(&shared.greatest, greatest);
  }
  __syncthreads();
  return shared.least == shared.greatest;
}

// Behind the rank-th sample, in order, whose key is `tie`; the row's end if there is none.
__device__ __forceinline__ int32_t behind_tie(GateStorage& shared, RowSample const& sample,
                                              uint32_t tie, uint32_t rank, int32_t row_end) {
  int32_t const own = (sample.count + kGateThreads - 1) / kGateThreads;
  int32_t const begin = min(static_cast<int32_t>(threadIdx.x) * own, sample.count);
  int32_t const end = min(begin + own, sample.count);
  uint32_t counts[1] = {0};
  for (int32_t i = begin; i < end; ++i) counts[0] += key_of(sample.logits[i]) == tie ? 1 : 0;
  if (threadIdx.x == 0) shared.low_end = row_end;
  BlockSums<kGateThreads, 1> const sums(shared.work.warp_sums[0], counts);
  uint32_t seen = sums.before[0];
  if (seen < rank && rank <= seen + counts[0]) {
    for (int32_t i = begin; seen < rank; ++i) {
      if (key_of(sample.logits[i]) != tie) continue;
      if (++seen == rank) shared.low_end = min((sample.first + i) * kSampleStride + 1, row_end);
    }
  }
  __syncthreads();
  return shared.low_end;
}

// The gate is the rank-th best sample, or up to a quarter of the rank below it. Where a crowd of
// equal samples lies there, keys pass from just above it on, and those of the crowd only as far as
// it takes to find top_k: of equal logits the lower positions win.
__device__ __forceinline__ RowGate find_gate(GateStorage& shared, RowSample const& sample,
                                             int32_t row_end, int32_t length, int32_t top_k) {
  float const density = __fdividef(static_cast<float>(sample.count), length);
  float const taken = __fdividef(static_cast<float>(top_k), length);
  uint32_t const rank = static_cast<uint32_t>(sample_rank(top_k, density, taken));
  uint32_t const samples = static_cast<uint32_t>(sample.count);
  // No gate lets NaN pass, and none -inf, which is equal to it.
  float const lowest = logit_of(kWorstKey + 1);
  if (rank >= samples) return RowGate{lowest, lowest, 0};
  constexpr uint32_t kOwn = 9;  // samples that a thread holds; it reads others again
  uint32_t keys[kOwn];
#pragma unroll
  for (uint32_t i = 0; i < kOwn; ++i) {
    uint32_t const index = threadIdx.x + i * kGateThreads;
    keys[i] = index < samples ? key_of(sample.logits[index]) : kNoKey;
  }
  auto const visit = [&](auto const& count) {
#pragma unroll
    for (uint32_t i = 0; i < kOwn; ++i) {
      if (keys[i] != kNoKey) count(keys[i]);
    }
    for (uint32_t i = threadIdx.x + kOwn * kGateThreads; i < samples; i += kGateThreads) {
      count(key_of(sample.logits[i]));
    }
  };
  auto const fits = [&](Bin const& bin) {
    return rank - bin.rank + bin.inside <= rank + rank / 4;  // that pass
  };
  Bin bin = narrow<kGateThreads>(shared.bins, Bin{0, 32, rank, samples}, 0, visit,
                                 [](Bin const& bin) { return bin.shift < 32; });
  if (!fits(bin)) {
    bin = is_single_key(shared, bin, visit)
              ? Bin{shared.least, 0, bin.rank, bin.inside}
              : narrow<kGateThreads>(shared.bins, bin, 0, visit, fits);
  }
  if (bin.low <= kWorstKey) return RowGate{lowest, lowest, 0};
  float const low = logit_of(bin.low);
  if (fits(bin)) return RowGate{low, low, 0};
  float const greater = rank - bin.rank;  // samples
  float const surely_greater = fmaxf(greater - 4.5f * sqrtf(greater) - 3.0f, 0.0f) / density;
  float const wanted = top_k - surely_greater;
  float const high = logit_of(bin.low + 1);
  if (wanted <= 0.0f) return RowGate{high, high, 0};
  uint32_t const ties = static_cast<uint32_t>(sample_rank(wanted, density, 0.0f));
  return RowGate{low, high, behind_tie(shared, sample, bin.low, ties, row_end)};
}

// A block shares out a scan, the first ones, or finds the gate of a row.
__global__ void __launch_bounds__(kGateThreads, 5)
    row_gates_kernel(__grid_constant__ GateArgs const args) {
  __shared__ GateStorage shared;
  ptx::wait_for_prior_kernels();
  ptx::launch_dependent_kernels();
  int32_t const block = blockIdx.x;
  if (block < args.num_scans) {
    int32_t const first = block * args.work.scan_tiles;
    for (int32_t i = threadIdx.x; i < args.work.scan_tiles; i += kGateThreads) {
      args.redo.rows[first + i] = 0;
    }
    if (block == 0 && threadIdx.x == 0) *args.redo.count = 0;
    share_out(args.ranges, args.work, shared.work, block);
    return;
  }
  int32_t const row = block - args.num_scans;
  indexer::RowRange const range = indexer::FlatKeys::range(args.ranges, row);
  int32_t const length = range.end - range.begin;
  RowGate gate{NAN, NAN, 0};
  if (length > 0) {
    if (threadIdx.x == 0) {
      shared.least = ~0u;
      shared.greatest = 0;
    }
    int32_t const first = samples_before(range.begin);
    RowSample const sample{args.samples + row * args.samples_row_stride + first, first,
                           samples_before(range.end) - first};
    gate = find_gate(shared, sample, range.end, length, args.top_k);
  }
  if (threadIdx.x == 0) args.gates[row] = gate;
}

}  // namespace dsa_ops::topk_sm90::fused
