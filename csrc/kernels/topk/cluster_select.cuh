// The k-th best of the keys that a cluster's threads hold in registers.
//
// A round counts the keys of an interval in 256 bins. Every block sends its counts to all blocks of
// the cluster, so that each finds the bin of the k-th best alone and a round costs one trip. The
// bin is the next round's interval, until all its keys win, or it is one key, or it holds so few
// keys that the blocks send each other all of them and rank them. A good guess of the first
// interval leaves one round and the ranking.
//
// Data travels by st.async, which completes its bytes on a barrier of the receiver: no block ever
// waits for a fence. A barrier serves one round, so that a block that is a round ahead cannot
// complete bytes of a phase that is not over. A block leaves no earlier than all that is sent to it
// has come, so that none writes to a block that has ended.
#pragma once
#include <cstdint>

#include "device/ptx/cluster.cuh"
#include "device/ptx/mbarrier.cuh"
#include "device/ptx/warpgroup.cuh"
#include "kernels/topk/bins.cuh"
#include "kernels/topk/block_scan.cuh"
#include "kernels/topk/keys.cuh"

namespace dsa_ops::topk_sm90 {

inline constexpr int kRoundBins = kSearchThreads;
inline constexpr int kRoundBinsLog2 = 8;
inline constexpr int kRankedKeys = 64;
// Of a whole selection: four resolve a key from nothing; before them a first interval may miss the
// k-th best twice (gated).
inline constexpr int kMaxRounds = 8;

// Keys low ... low + range in bins of 2^shift; keys past the last bin count there.
struct Interval {
  uint32_t low;
  uint32_t range;
  int shift;
};

__device__ __forceinline__ int round_shift(uint32_t range) {
  return max(32 - __clz(range) - kRoundBinsLog2, 0);
}

// Where the rank-th best of the counted keys lies.
struct Crossing {
  uint32_t bin;            // kRoundBins if there are fewer keys
  uint32_t rank;           // within the bin; of the keys below if there are fewer
  uint32_t inside;         // keys in the bin
  uint32_t above_before;   // keys above the bin, of all rounds, in the blocks of lower rank
  uint32_t inside_before;  // keys in the bin in the blocks of lower rank
};

// Keys above the threshold win, and so do the first `ties` (by position) of those equal to it; if
// `settled`, all keys from the threshold on.
struct Verdict {
  uint32_t threshold;
  uint32_t ties;
  uint32_t greater_before;  // keys above the threshold in the blocks of lower rank
  uint32_t equal_before;    // keys that equal it there; if settled, what else wins there
  bool settled;
};

template <int kClusterSize>
struct alignas(16) SelectStorage {
  uint32_t bins[2][kRoundBins];  // of even and odd rounds
  uint16_t gathered[2][kClusterSize > 1 ? kClusterSize : 0][kRoundBins];
  uint32_t ranked[kRankedKeys];  // grouped by block
  uint64_t barriers[kMaxRounds + 1];
  uint2 warp_sums[kSearchWarps];
  Crossing crossing;
  Verdict verdict;
  uint32_t num_ranked;
};

// One selection of one row.
template <int kClusterSize, int kThreads>
class Selector {
 public:
  using Storage = SelectStorage<kClusterSize>;

  // The caller synchronises the block before it selects.
  __device__ Selector(Storage& shared, int top_k) : shared_(shared) {
    int const thread = threadIdx.x;
    if (thread < kRoundBins) shared.bins[0][thread] = 0;
    if (thread < kRankedKeys) shared.ranked[thread] = kNoKey;
    if (thread == 0) {
      shared.num_ranked = 0;
      shared.crossing = Crossing{0, static_cast<uint32_t>(top_k), 0, 0, 0};
    }
    if constexpr (kClusterSize > 1) {
      if (thread == 0) {
#pragma unroll 1
        for (int i = 0; i <= kMaxRounds; ++i) ptx::mbarrier_init(&shared.barriers[i], 1);
        ptx::fence_mbarrier_init();
      }
      __syncwarp();
      ptx::cluster_arrive_relaxed();
    }
  }

  // All barriers of the cluster exist. Once, before the first round.
  __device__ void wait_for_cluster() {
    if constexpr (kClusterSize > 1) {
      __syncwarp();
      ptx::cluster_wait_acquire();
    }
  }

  // Keys that win and are not found yet.
  __device__ uint32_t remaining() const { return shared_.crossing.rank; }
  __device__ Verdict const& verdict() const { return shared_.verdict; }

  // Selects among `keys` of all threads of the cluster; kNoKey does not count. False if fewer than
  // needed lie in the interval: they all win, remaining() is what is missing, and the interval
  // becomes that of the keys below it. True leaves the verdict.
  template <int kKeys>
  __device__ __forceinline__ bool select(uint32_t const (&keys)[kKeys], Interval& interval) {
#pragma unroll 1
    while (true) {
      Crossing const crossing = run_round([&](uint32_t* bins) {
#pragma unroll
        for (int i = 0; i < kKeys; ++i) {
          uint32_t const offset = keys[i] - interval.low;
          if (offset <= interval.range) {
            atomicAdd(&bins[min(offset >> interval.shift, kRoundBins - 1)], 1u);
          }
        }
      });
      if (crossing.bin == kRoundBins) {
        uint32_t const range = interval.low - 2;
        interval = Interval{1, range, round_shift(range)};
        return false;
      }
      uint32_t const offset = crossing.bin << interval.shift;
      uint32_t const rest = interval.range - offset;
      uint32_t const width = ~(~0u << interval.shift);
      interval.low += offset;
      interval.range = crossing.bin == kRoundBins - 1 ? rest : min(width, rest);
      interval.shift = round_shift(interval.range);
      bool const settled = crossing.inside == crossing.rank;
      if (!settled && crossing.inside <= kRankedKeys) {
        rank_inside(keys, interval, crossing);
        return true;
      }
      if (settled || interval.range == 0) {
        if (threadIdx.x == 0) {
          shared_.verdict = Verdict{interval.low, crossing.rank, crossing.above_before,
                                    crossing.inside_before, settled};
        }
        __syncthreads();
        return true;
      }
    }
  }

  // Counts by count(bins) and finds the bin of the remaining-th best. Barriers: the block's counts;
  // the exchange; the crossing, and the zeros of the next round's bins.
  template <class Count>
  __device__ __forceinline__ Crossing run_round(Count const& count) {
    uint32_t* const bins = shared_.bins[round_ % 2];
    count(bins);
    __syncthreads();
    TOPK_STAMP(4);
    if constexpr (kClusterSize > 1) send_counts();
    if (threadIdx.x < kRoundBins) {
      shared_.bins[1 - round_ % 2][threadIdx.x] = 0;
      if constexpr (kClusterSize > 1) ptx::mbarrier_wait_cluster(&shared_.barriers[round_], 0);
      TOPK_STAMP(5);
      find_crossing(bins);
    }
    __syncthreads();
    TOPK_STAMP(6);
    ++round_;
    return shared_.crossing;
  }

 private:
  // To every block, this one included.
  __device__ __forceinline__ void send_counts() {
    constexpr int kCounts = 8;  // of a 16-byte store
    constexpr int kStores = kRoundBins / kCounts;
    int const buffer = round_ % 2;
    uint64_t* const barrier = &shared_.barriers[round_];
    if (threadIdx.x == 0) {
      ptx::mbarrier_arrive_expect_tx(barrier, kClusterSize * kRoundBins * sizeof(uint16_t));
    }
    for (int i = threadIdx.x; i < kClusterSize * kStores; i += kThreads) {
      int const peer = i / kStores;
      int const first = i % kStores * kCounts;
      uint4 const low = *reinterpret_cast<uint4 const*>(&shared_.bins[buffer][first]);
      uint4 const high = *reinterpret_cast<uint4 const*>(&shared_.bins[buffer][first + 4]);
      uint4 const packed = make_uint4(low.x | low.y << 16, low.z | low.w << 16,
                                      high.x | high.y << 16, high.z | high.w << 16);
      ptx::store_async(
          ptx::map_to_rank(ptx::shared_address(&shared_.gathered[buffer][block_rank()][first]), peer),
          packed, ptx::map_to_rank(ptx::shared_address(barrier), peer));
    }
  }

  // By kRoundBins threads, the first the best bin's.
  __device__ __forceinline__ void find_crossing(uint32_t const* bins) {
    int const lane = threadIdx.x % 32;
    int const warp = threadIdx.x / 32;
    int const bin = kRoundBins - 1 - threadIdx.x;
    uint32_t const rank = shared_.crossing.rank;  // of the last round; written behind the barrier
    uint32_t const above_before = shared_.crossing.above_before;
    uint2 sum = make_uint2(0, 0);  // of the cluster, of the blocks of lower rank
    if constexpr (kClusterSize == 1) {
      sum.x = bins[bin];
    } else {
#pragma unroll
      for (int peer = 0; peer < kClusterSize; ++peer) {
        uint32_t const count = shared_.gathered[round_ % 2][peer][bin];
        sum.x += count;
        sum.y += peer < block_rank() ? count : 0;
      }
    }
    uint2 above = sum;
    above.x = warp_inclusive_sum(sum.x, lane);
    if constexpr (kClusterSize > 1) above.y = warp_inclusive_sum(sum.y, lane);
    if (lane == 31) shared_.warp_sums[warp] = above;
    ptx::named_barrier_sync(kSearchBarrier, kSearchThreads);
#pragma unroll
    for (int other = 0; other < kSearchWarps - 1; ++other) {
      uint2 const sums = shared_.warp_sums[other];
      above.x += other < warp ? sums.x : 0;
      above.y += other < warp ? sums.y : 0;
    }
    uint32_t const counted = above.x;
    above.x -= sum.x;
    above.y -= sum.y;
    above.y += above_before;
    if (above.x < rank && rank <= counted) {
      shared_.crossing =
          Crossing{static_cast<uint32_t>(bin), rank - above.x, sum.x, above.y, sum.y};
    }
    if (bin == 0 && counted < rank) {
      shared_.crossing = Crossing{kRoundBins, rank - counted, 0, above.y + sum.y, 0};
    }
  }

  // Sends the keys of the crossing to every block, each of which ranks them.
  template <int kKeys>
  __device__ __forceinline__ void rank_inside(uint32_t const (&keys)[kKeys],
                                              Interval const& interval, Crossing const& crossing) {
    if (kClusterSize > 1 && threadIdx.x == 0) {
      ptx::mbarrier_arrive_expect_tx(&shared_.barriers[kMaxRounds],
                                     crossing.inside * sizeof(uint32_t));
    }
    bool any = false;  // few threads have one
#pragma unroll
    for (int i = 0; i < kKeys; ++i) any |= keys[i] - interval.low <= interval.range;
    if (any) {
#pragma unroll
      for (int i = 0; i < kKeys; ++i) {
        if (keys[i] - interval.low <= interval.range) send_key(keys[i], crossing.inside_before);
      }
    }
    if constexpr (kClusterSize == 1) __syncthreads();
    if (threadIdx.x < 32) {
      if constexpr (kClusterSize > 1) {
        ptx::mbarrier_wait_cluster(&shared_.barriers[kMaxRounds], 0);
      }
      rank_keys(crossing);
    }
    __syncthreads();
  }

  __device__ __forceinline__ void send_key(uint32_t key, uint32_t inside_before) {
    uint32_t const place = inside_before + atomicAdd(&shared_.num_ranked, 1u);
    if constexpr (kClusterSize == 1) {
      shared_.ranked[place] = key;
    } else {
      uint32_t const address = ptx::shared_address(&shared_.ranked[place]);
      uint32_t const barrier = ptx::shared_address(&shared_.barriers[kMaxRounds]);
#pragma unroll 1
      for (int peer = 0; peer < kClusterSize; ++peer) {
        ptx::store_async(ptx::map_to_rank(address, peer), key, ptx::map_to_rank(barrier, peer));
      }
    }
  }

  // By one warp, a lane one key at a time.
  __device__ __forceinline__ void rank_keys(Crossing const& crossing) {
    int const lane = threadIdx.x % 32;
    int const inside = static_cast<int>(crossing.inside);
#pragma unroll 1
    for (int index = lane; index - lane < inside; index += 32) {
      uint32_t const key = shared_.ranked[index];
      uint32_t greater = 0;
      uint32_t not_less = 0;
#pragma unroll 2
      for (int first = 0; first < inside; first += 4) {
        uint4 const quad = *reinterpret_cast<uint4 const*>(&shared_.ranked[first]);
        uint32_t const others[4] = {quad.x, quad.y, quad.z, quad.w};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          greater += others[i] > key ? 1 : 0;
          not_less += others[i] >= key ? 1 : 0;
        }
      }
      // Lanes that hold the key sought agree on it, and some lane does.
      if (key != kNoKey && greater < crossing.rank && crossing.rank <= not_less) {
        shared_.verdict =
            Verdict{key, crossing.rank - greater, 0, 0, crossing.rank == not_less};
      }
    }
    __syncwarp();
    uint32_t const threshold = shared_.verdict.threshold;
    uint32_t greater_before = crossing.above_before;
    uint32_t equal_before = 0;
    if constexpr (kClusterSize > 1) {
#pragma unroll
      for (int j = 0; j < kRankedKeys / 32; ++j) {
        int const index = lane + 32 * j;
        uint32_t const key = shared_.ranked[index];
        bool const before = index < static_cast<int>(crossing.inside_before);
        greater_before += __popc(__ballot_sync(kAllLanes, before && key > threshold));
        equal_before += __popc(__ballot_sync(kAllLanes, before && key == threshold));
      }
    }
    if (lane == 0) {
      shared_.verdict.greater_before = greater_before;
      shared_.verdict.equal_before = equal_before;
    }
  }

  static __device__ __forceinline__ int block_rank() {
    return static_cast<int>(blockIdx.x % kClusterSize);
  }

  Storage& shared_;
  int round_ = 0;
};

}  // namespace dsa_ops::topk_sm90
