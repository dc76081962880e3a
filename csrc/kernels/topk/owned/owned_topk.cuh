// paged_indexer_topk of short rows, one per request: a block scores a row and selects from it.
//
// Logits stay in shared memory. Four warpgroups take the row's pages by turns, spread over the row.
// The first turns give the map of values to bins that the binned selection takes from samples, and
// from then on a logit is counted as it is scored: what is left behind the row's last page is a
// search among the bins and the order of the winners. Memory is busy meanwhile with the rings of
// pages, of which there are more than hide a stop.
//
//   warps 0-15   four math warpgroups, which then select
//   warps 16-19  feed a warpgroup each, meet the others before the sample is looked at, and end
//
// page_ring.cuh has the rings' barriers; query_full has 1 arrival, with the bytes of the query.
#pragma once
#include <cmath>
#include <cstdint>

#include "device/ptx/grid.cuh"
#include "kernels/indexer/scoring.cuh"
#include "kernels/topk/binned/bin_map.cuh"
#include "kernels/topk/binned/write_best.cuh"
#include "kernels/topk/owned/args.h"
#include "kernels/topk/owned/page_ring.cuh"

namespace dsa_ops::topk_sm90::owned {

template <class Tile>
__device__ __forceinline__ void init_barriers(SharedStorage<Tile>& shared, int warpgroup) {
  if (warpgroup == 0) ptx::mbarrier_init(&shared.query_full, 1);
  for (int i = 0; i < kStages; ++i) {
    ptx::mbarrier_init(&shared.key_full[warpgroup][i], 1);
    ptx::mbarrier_init(&shared.key_empty[warpgroup][i], 128);
  }
  ptx::fence_mbarrier_init();
}

template <class Tile>
__device__ __forceinline__ void load_query(indexer::PagedArgs const& args,
                                           SharedStorage<Tile>& shared, int32_t row) {
  ptx::mbarrier_arrive_expect_tx(&shared.query_full, Tile::kQueryBytes);
  ptx::tma_load_4d(shared.query, &args.query_map, &shared.query_full, 0, 0, 0, row);
}

// Scores a warpgroup's pages.
template <class Tile>
class PageScorer {
 public:
  __device__ __forceinline__ PageScorer(SharedStorage<Tile>& shared, int32_t length, int warp,
                                        int lane)
      : shared_(shared),
        length_(length),
        warpgroup_(warp / 4),
        lane_(lane),
        lane_key_(indexer::key_of_lane(warp % 4, lane)),
        takes_(indexer::query_of_lane(lane) == 0),
        first_keys_(indexer::uniform_descriptor(
            k_major_descriptor(ptx::shared_address(shared.keys[warpgroup_])))),
        query_(indexer::uniform_descriptor(k_major_descriptor(ptx::shared_address(shared.query)))) {
  }

  __device__ __forceinline__ void load_weights(float const* weights) {
    indexer::load_weights<Tile>(registers_.weights[0], lane_, [&](int, int head) {
      return float2{indexer::halve(__ldg(weights + head)),
                    indexer::halve(__ldg(weights + head + 1))};
    });
  }
  // Scores the page of a turn and leaves its logits; take(logit, place) gets those of the row.
  template <class Take>
  __device__ __forceinline__ void score(uint32_t turn, Take const& take) {
    uint32_t const stage = ring_.stage;
    ptx::mbarrier_wait(&shared_.key_full[warpgroup_][stage], ring_.phase);
    float const scale = shared_.scales[warpgroup_][stage][lane_key_];
    bool const present = shared_.page_present[warpgroup_][stage] != 0;
    constexpr int kStageBytes = indexer::kPageKeys * indexer::kHeadDim;
    indexer::score_keys<Tile>(
        registers_, indexer::descriptor_at(first_keys_, stage * kStageBytes), query_, scale, lane_,
        [&] { ptx::mbarrier_arrive(&shared_.key_empty[warpgroup_][stage]); },
        [&](int, float logit) {
          int32_t const n = page_of_turn(turn, warpgroup_) * indexer::kPageKeys + lane_key_;
          logit = present ? logit : -INFINITY;
          if (takes_ && n < length_) {
            shared_.logits[n] = logit;
            take(logit);
          }
        });
    ring_.advance();
  }
  __device__ __forceinline__ int lane_key() const { return lane_key_; }

 private:
  SharedStorage<Tile>& shared_;
  int32_t const length_;
  int const warpgroup_;
  int const lane_;
  int const lane_key_;
  bool const takes_;
  uint64_t const first_keys_;
  uint64_t const query_;
  indexer::RingPosition<kStages> ring_;
  indexer::MathRegisters<Tile> registers_;
};

// Counts the logits of the turns scored before there was a map, half of them each half of the
// warpgroup.
template <class Tile>
__device__ __forceinline__ void count_scored(SharedStorage<Tile>& shared, uint32_t turns,
                                             int32_t count, int32_t length, int warpgroup,
                                             binned::BinMap const& bin_of) {
  int const thread = static_cast<int>(threadIdx.x) % 128;
  int const half = thread / indexer::kPageKeys;
#pragma unroll 1
  for (int32_t i = 0; i < count; i += 2) {
    uint32_t const even = take_turn(turns);
    uint32_t const odd = take_turn(turns);  // of no turn if there is none
    if (i + half < count) {
      int32_t const page = page_of_turn(half == 0 ? even : odd, warpgroup);
      int32_t const n = page * indexer::kPageKeys + thread % indexer::kPageKeys;
      if (n < length) {
        atomicAdd(&shared.select.bins[bin_of(shared.logits[n]) - binned::BinMap::kFirstBin], 1u);
      }
    }
  }
}

// The best of a row whose logits and counts are complete once all threads have come here.
template <class Tile>
__device__ __forceinline__ void select_row(KernelArgs const& args, SharedStorage<Tile>& shared,
                                           int32_t length, binned::BinMap const& bin_of) {
  using Packets = HeldPackets<LogitsType::kFloat32, binned::kThreadKeys>;
  __syncthreads();
  auto const* const row = reinterpret_cast<uint32_t const*>(shared.logits);
  Packets const packets(row, kMaxColumns, 0, 1);
  float values[binned::kThreadKeys];
#pragma unroll
  for (int i = 0; i < binned::kThreadKeys; i += 4) {
    Packet<LogitsType::kFloat32>::unpack(
        *reinterpret_cast<uint4 const*>(&shared.logits[packets.index(i)]), &values[i]);
  }
  packets.drop_beyond(values, length);
  binned::write_best<LogitsType::kFloat32, true>(args, shared.select, bin_of, packets, values,
                                                 length);
}

// What a feeding warp does.
template <class Tile>
__device__ __forceinline__ void feed_row(OwnedArgs const& args, SharedStorage<Tile>& shared,
                                         int32_t row, int warpgroup, int lane) {
  if (lane == 0) init_barriers(shared, warpgroup);
  __syncwarp();
  ptx::wait_for_prior_kernels();
  if (warpgroup == 0 && ptx::elect_one()) load_query<Tile>(args.scoring, shared, row);
  PageFeed<Tile> feed(args.scoring, shared, row, warpgroup, lane);
  int32_t const length = args.scoring.lengths.of(row, 0);
  int32_t const pages = (length + indexer::kPageKeys - 1) / indexer::kPageKeys;
  uint32_t turns = length > args.topk.top_k ? turns_of_row(pages, warpgroup, lane) : 0;
  feed.load(turns, kStages);
  __syncthreads();
  if (length <= args.topk.top_k) return;
  // Behind the sample's turns the math warps wait for all others, too.
  feed.load(turns, kSampleTurns);
  __syncthreads();
  feed.load(turns, kMaxTurns);
}

template <int kHeads>
__global__ void __launch_bounds__(kThreads, 1)
    owned_topk_kernel(__grid_constant__ OwnedArgs const args) {
  using Tile = indexer::PagedTile<kHeads, 1>;
  extern __shared__ __align__(1024) uint8_t shared_memory[];
  auto& shared = *reinterpret_cast<SharedStorage<Tile>*>(shared_memory);
  int const warp = indexer::uniform(static_cast<int32_t>(threadIdx.x) / 32);
  int const lane = static_cast<int>(threadIdx.x) % 32;
  int32_t const row = static_cast<int32_t>(blockIdx.x);
  indexer::PagedArgs const& scoring = args.scoring;
  if (warp >= kMathThreads / 32) {
    return feed_row<Tile>(args, shared, row, warp - kMathThreads / 32, lane);
  }

  if (warp == 0 && ptx::elect_one()) {
    ptx::prefetch_tensor_map(&scoring.query_map);
    if (scoring.num_pages > 0) ptx::prefetch_tensor_map(&scoring.key_map);
  }
  ptx::wait_for_prior_kernels();
  int const warpgroup = warp / 4;
  int32_t const length = scoring.lengths.of(row, 0);
  PageScorer<Tile> scorer(shared, length, warp, lane);
  scorer.load_weights(scoring.weights + row * scoring.weights_row_stride);
  for (int i = threadIdx.x; i < binned::kValueBins / 4; i += kMathThreads) {
    reinterpret_cast<uint4*>(shared.select.bins)[i] = make_uint4(0, 0, 0, 0);
  }
  binned::prepare_output(args.topk, shared.select);
  int32_t const pages = (length + indexer::kPageKeys - 1) / indexer::kPageKeys;
  uint32_t turns = turns_of_row(pages, warpgroup, lane);
  __syncthreads();
  ptx::mbarrier_wait(&shared.query_full, 0);
  if (length <= args.topk.top_k) {
    RowRange const range(args.topk, row);
    write_whole_row<kMathThreads>(args.topk, range, SlotMap(args.topk, row), 0, 1,
                                  args.topk.indices + int64_t{row} * args.topk.indices_row_stride);
    return;
  }

  uint32_t const sampled_turns = turns;
  int32_t const sampled = min(__popc(turns), kSampleTurns);
#pragma unroll 1
  for (int32_t i = 0; i < sampled; ++i) {
    uint32_t const turn = take_turn(turns);
    int32_t const last = length - 1 - page_of_turn(turn, warpgroup) * indexer::kPageKeys;
    int const sample_key = min((i * 37 + warpgroup * 11 + 5) % indexer::kPageKeys, last);
    scorer.score(turn, [&](float logit) {
      if (scorer.lane_key() == sample_key) shared.samples[i * kWarpgroups + warpgroup] = logit;
    });
  }
  __syncthreads();
  int32_t const samples = min(pages, kWarpgroups * kSampleTurns);
  float const sorted = binned::sort_lanes(binned::finite(shared.samples[lane % samples]));
  binned::BinMap const bin_of(binned::SampleRanks(args.topk.top_k, length, 32),
                              [&](int rank) { return __shfl_sync(kAllLanes, sorted, rank); });
  count_scored(shared, sampled_turns, sampled, length, warpgroup, bin_of);
#pragma unroll 1
  while (turns != 0) {
    scorer.score(take_turn(turns), [&](float logit) {
      atomicAdd(&shared.select.bins[bin_of(logit) - binned::BinMap::kFirstBin], 1u);
    });
  }
  ptx::launch_dependent_kernels();
  select_row(args.topk, shared, length, bin_of);
}

}  // namespace dsa_ops::topk_sm90::owned
