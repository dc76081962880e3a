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
#include "device/ptx/warp.cuh"
#include "kernels/topk/bins.cuh"
#include "kernels/topk/block_scan.cuh"
#include "kernels/topk/keys.cuh"
#include "kernels/topk/storage.h"
#include "kernels/topk/traits.h"

namespace dsa_ops::topk_sm90 {

// Keys low ... low + range in bins of 2^shift; keys past the last bin count there.
struct Interval {
  uint32_t low;
  uint32_t range;
  int shift;
};

__device__ __forceinline__ int round_shift(uint32_t range) {
  return max(32 - __clz(range) - kRoundBinsLog2, 0);
}

// Where this block's winners begin in the row's.
__device__ __forceinline__ uint32_t first_winner(Verdict const& verdict) {
  return verdict.greater_before +
         (verdict.settled ? verdict.equal_before : min(verdict.equal_before, verdict.ties));
}

// One selection of one row.
template <int kClusterSize, int kThreads>
class ClusterSelect {
 public:
  using Storage = SelectStorage<kClusterSize>;

  __device__ explicit ClusterSelect(Storage& shared) : shared_(shared) {}
  __device__ ClusterSelect(Storage& shared, int top_k) : shared_(shared) { prepare(top_k); }

  // The caller synchronises the block between this and the selection.
  __device__ __forceinline__ void prepare(int top_k) {
    int const thread = threadIdx.x;
    if (thread < kRoundBins) shared_.bins[0][thread] = 0;
    if (thread < kRankedKeys) shared_.ranked[thread] = kNoKey;
    if (thread == 0) {
      shared_.num_ranked = 0;
      shared_.crossing = Crossing{0, static_cast<uint32_t>(top_k), 0, 0, 0};
    }
    if constexpr (kClusterSize > 1) {
      if (thread <= kMaxRounds) {
        ptx::mbarrier_init(&shared_.barriers[thread], 1);
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
    return select_visited([&](auto const& take) { take(keys); }, interval);
  }

  // The same where visit(take) calls take(keys), arrays of one size, for the keys of this thread.
  template <class Visit>
  __device__ __forceinline__ bool select_visited(Visit const& visit, Interval& interval) {
#pragma unroll 1
    while (true) {
      Crossing const crossing = run_round([&](uint32_t* bins) {
        visit([&](auto const& keys) {
#pragma unroll
          for (uint32_t const key : keys) {
            uint32_t const offset = key - interval.low;
            // Choosing a bin costs less than a branch around the atomic.
            uint32_t const bin = min(offset >> interval.shift, kRoundBins - 1);
            atomicAdd(&bins[offset <= interval.range ? bin : kOtherBin], 1u);
          }
        });
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
        rank_inside(visit, interval, crossing);
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
  // the exchange; the search; the crossing, and the zeros of the next round's bins.
  template <class Count>
  __device__ __forceinline__ Crossing run_round(Count const& count) {
    uint32_t* const bins = shared_.bins[round_ % 2];
    count(bins);
    __syncthreads();
    if constexpr (kClusterSize > 1) send_counts();
    find_crossing(bins);
    __syncthreads();
    ++round_;
    return shared_.crossing;
  }

 private:
  // Threads that search a bin: what blocks have sent is read by two, if it is much and the block
  // has its multiprocessor alone.
  static constexpr int kShare = kClusterSize > 8 && kThreads >= 2 * kRoundBins ? 2 : 1;

  // To every block, this one included.
  __device__ __forceinline__ void send_counts() {
    constexpr int kCounts = 8;  // of a 16-byte store
    constexpr int kStores = kRoundBins / kCounts;
    int const buffer = round_ % 2;
    uint64_t* const barrier = &shared_.barriers[round_];
    if (threadIdx.x == 0) {
      ptx::mbarrier_arrive_expect_tx(barrier, kClusterSize * kRoundBins * sizeof(uint16_t));
    }
#pragma unroll
    for (int step = 0; step < kClusterSize * kStores; step += kThreads) {
      int const i = step + static_cast<int>(opaque(threadIdx.x));
      if (kClusterSize * kStores % kThreads != 0 && i >= kClusterSize * kStores) break;
      int const peer = i / kStores;
      int const first = i % kStores * kCounts;
      uint4 const low = *reinterpret_cast<uint4 const*>(&shared_.bins[buffer][first]);
      uint4 const high = *reinterpret_cast<uint4 const*>(&shared_.bins[buffer][first + 4]);
      uint4 const packed = make_uint4(low.x | low.y << 16, low.z | low.w << 16,
                                      high.x | high.y << 16, high.z | high.w << 16);
      ptx::store_async(
          ptx::map_to_rank(ptx::shared_address(&shared_.gathered[buffer][block_rank()][first]),
                           peer),
          packed, ptx::map_to_rank(ptx::shared_address(barrier), peer));
    }
  }

  // By kShare neighbouring threads for each bin, the first the best bin's; the others take part in
  // the barrier.
  __device__ __forceinline__ void find_crossing(uint32_t const* bins) {
    bool const searches = threadIdx.x < kRoundBins * kShare;
    bool const writes = threadIdx.x % kShare == 0;
    int const lane = threadIdx.x % 32;
    int const warp = threadIdx.x / 32;
    int const bin = kRoundBins - 1 - static_cast<int>(threadIdx.x) / kShare;
    uint32_t rank = 0;  // of the last round
    uint32_t above_before = 0;
    uint2 sum = make_uint2(0, 0);  // of the cluster, of the blocks of lower rank
    uint2 above = sum;
    if (searches) {
      if (writes) shared_.bins[1 - round_ % 2][bin] = 0;
      rank = shared_.crossing.rank;
      above_before = shared_.crossing.above_before;
      if constexpr (kClusterSize == 1) {
        sum.x = bins[bin];
      } else {
        ptx::mbarrier_wait_cluster(&shared_.barriers[round_], 0);
#pragma unroll
        for (int i = 0; i < kClusterSize; i += kShare) {
          int const peer = i + lane % kShare;
          uint32_t const count = shared_.gathered[round_ % 2][peer][bin];
          sum.x += count;
          sum.y += peer < block_rank() ? count : 0;
        }
        if constexpr (kShare == 2) {
          sum.x += __shfl_xor_sync(kAllLanes, sum.x, 1);
          sum.y += __shfl_xor_sync(kAllLanes, sum.y, 1);
        }
      }
      if constexpr (kClusterSize == 1) {
        above.x = ptx::warp_inclusive_sum(sum.x);
      } else {
        above = ptx::warp_inclusive_sum<kShare>(sum);
      }
      if (lane == 31) shared_.warp_sums[warp] = above;
    }
    __syncthreads();
    if (!searches) return;
    uint2 const lower = lane < warp ? shared_.warp_sums[lane] : make_uint2(0, 0);
    above.x += __reduce_add_sync(kAllLanes, lower.x);
    if constexpr (kClusterSize > 1) above.y += __reduce_add_sync(kAllLanes, lower.y);
    uint32_t const counted = above.x;
    above.x -= sum.x;
    above.y -= sum.y;
    above.y += above_before;
    if (writes && above.x < rank && rank <= counted) {
      shared_.crossing =
          Crossing{static_cast<uint32_t>(bin), rank - above.x, sum.x, above.y, sum.y};
    }
    if (writes && bin == 0 && counted < rank) {
      shared_.crossing = Crossing{kRoundBins, rank - counted, 0, above.y + sum.y, 0};
    }
  }

  // Sends the keys of the crossing to every block, each of which ranks them. Barriers: the block's
  // keys; the exchange; the verdict.
  template <class Visit>
  __device__ __forceinline__ void rank_inside(Visit const& visit, Interval const& interval,
                                              Crossing const& crossing) {
    uint32_t* const list = kClusterSize == 1 ? shared_.ranked : shared_.own_ranked;
    visit([&](auto const& keys) {
      bool any = false;  // few threads have one
#pragma unroll
      for (uint32_t const key : keys) any |= key - interval.low <= interval.range;
      if (any) {
#pragma unroll
        for (uint32_t const key : keys) {
          if (key - interval.low <= interval.range) {
            list[atomicAdd(&shared_.num_ranked, 1u)] = key;
          }
        }
      }
    });
    __syncthreads();
    if constexpr (kClusterSize > 1) send_ranked(crossing);
    if (threadIdx.x < kRankThreads) {
      if constexpr (kClusterSize > 1) {
        ptx::mbarrier_wait_cluster(&shared_.barriers[kMaxRounds], 0);
      }
      rank_keys(crossing);
    }
    __syncthreads();
  }

  __device__ __forceinline__ void send_ranked(Crossing const& crossing) {
    uint64_t* const barrier = &shared_.barriers[kMaxRounds];
    if (threadIdx.x == 0) {
      ptx::mbarrier_arrive_expect_tx(barrier, crossing.inside * sizeof(uint32_t));
    }
    uint32_t const sends = shared_.num_ranked * kClusterSize;
    for (uint32_t i = opaque(threadIdx.x); i < sends; i += kThreads) {
      uint32_t const index = i / kClusterSize;
      uint32_t const peer = i % kClusterSize;
      uint32_t const place = ptx::shared_address(&shared_.ranked[crossing.inside_before + index]);
      ptx::store_async(ptx::map_to_rank(place, peer), shared_.own_ranked[index],
                       ptx::map_to_rank(ptx::shared_address(barrier), peer));
    }
  }

  // Four threads compare a key with all others.
  __device__ __forceinline__ void rank_keys(Crossing const& crossing) {
    uint32_t const thread = opaque(threadIdx.x);
    uint32_t const index = thread / 4;
    uint32_t const key = shared_.ranked[index];
    // How many others are above, equal, the same in the blocks of lower rank, equal in lower
    // places; six bits each.
    uint32_t counts = 0;
#pragma unroll 1
    for (uint32_t first = thread % 4 * 4; first < crossing.inside; first += 16) {
      uint4 const quad = *reinterpret_cast<uint4 const*>(&shared_.ranked[first]);
      uint32_t const others[4] = {quad.x, quad.y, quad.z, quad.w};
#pragma unroll
      for (uint32_t i = 0; i < 4; ++i) {
        uint32_t const before = first + i < crossing.inside_before ? 1u | 1u << 12 : 1u;
        if (others[i] > key) counts += before;
        if (others[i] == key && first + i != index) {
          counts += before << 6 | (first + i < index ? 1u << 24 : 0);
        }
      }
    }
    counts += __shfl_xor_sync(kAllLanes, counts, 1);
    counts += __shfl_xor_sync(kAllLanes, counts, 2);
    uint32_t const greater = counts & 63;
    uint32_t const equal = (counts >> 6 & 63) + 1;
    bool const is_first = counts >> 24 == 0;
    if (thread % 4 == 0 && key != kNoKey && is_first && greater < crossing.rank &&
        crossing.rank <= greater + equal) {
      uint32_t const own_before = index < crossing.inside_before ? 1 : 0;
      shared_.verdict =
          Verdict{key, crossing.rank - greater, crossing.above_before + (counts >> 12 & 63),
                  (counts >> 18 & 63) + own_before, crossing.rank == greater + equal};
    }
  }

  static __device__ __forceinline__ int block_rank() {
    return static_cast<int>(blockIdx.x % kClusterSize);
  }

  Storage& shared_;
  int round_ = 0;
};

}  // namespace dsa_ops::topk_sm90
