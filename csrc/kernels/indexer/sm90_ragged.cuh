// indexer_logits: logits[t, n] = k_scale[n] * sum_h weights[t, h] * relu(q[t, h] . k[n]).
// cached_indexer_logits: the same with keys and scales in the pages of a cache (ragged_keys.cuh).
//
// Row tiles x tiles of 128 keys are laid end to end and cut into equal pieces, which the blocks
// take in turn. A unit is the part of a piece that lies in one row tile. Of it a block scores the
// keys between the first and the last that any row of the tile sees, 128 at a time.
//
//   warps 0-7   two math warpgroups: 64 keys of each stage, wgmma and epilogue in registers
//   warp 8      producer: works the units out, stages their weights, feeds queries and
//               keys by TMA
//   warps 9-11  when `clean`: -inf for the keys of a unit that are not scored
//
// Rings and barriers:
//   query_full[2]   32 arrivals (the producer's lanes, with the bytes of the query tile: each has
//                   written a part of the unit); the math warps wait
//   query_empty[2]  256 arrivals (the math lanes, after a unit's last tile); the producer waits
//   key_full[8]     1 arrival (producer, with the bytes of a stage); the math warps wait
//   key_empty[8]    8 arrivals (one per math warp: the end of a wgmma is known per warp), 256 of
//                   cached keys (the lanes read scales); the producer waits
// The producer ends with a unit of 0 tiles. Everything it loads is waited for, so no copy is in
// flight when the block exits.
#pragma once
#include <cmath>
#include <cstdint>

#include "device/ptx/copy.cuh"
#include "device/ptx/grid.cuh"
#include "device/ptx/mbarrier.cuh"
#include "device/ptx/warp.cuh"
#include "kernels/indexer/args.h"
#include "kernels/indexer/ragged_keys.cuh"
#include "kernels/indexer/scoring.cuh"

namespace dsa_ops::indexer {

// The units of this block in order. The last rows come first (in causal prefill they see the most
// keys) and every second round runs backwards, so that the blocks' shares even out.
class RaggedWalk {
 public:
  explicit __device__ RaggedWalk(RaggedArgs const& args) : args_(args) {}

  // False after the last unit; else its row tile and keys.
  __device__ bool next(int32_t* row_tile, RowRange* keys) {
    while (at_ == end_) {
      int32_t const grid = static_cast<int32_t>(gridDim.x);
      int32_t const block = static_cast<int32_t>(blockIdx.x);
      if (round_ * grid >= args_.pieces) return false;
      int64_t const piece = round_ * grid + (round_ % 2 == 0 ? block : grid - 1 - block);
      int64_t const tiles = static_cast<int64_t>(args_.row_tiles) * args_.key_tiles;
      at_ = tiles * piece / args_.pieces;
      end_ = tiles * (piece + 1) / args_.pieces;
      ++round_;
    }
    int64_t const tile = at_ / args_.key_tiles;
    int32_t const first = static_cast<int32_t>(at_ - tile * args_.key_tiles);
    int32_t const last =
        static_cast<int32_t>(min(first + end_ - at_, static_cast<int64_t>(args_.key_tiles)));
    at_ += last - first;
    *row_tile = args_.row_tiles - 1 - static_cast<int32_t>(tile);
    *keys = RowRange{first * kStageKeys, min(last * kStageKeys, args_.num_keys)};
    return true;
  }

 private:
  RaggedArgs const& args_;
  int32_t round_ = 0;
  int64_t at_ = 0;
  int64_t end_ = 0;
};

template <class Tile, class Keys>
__device__ __forceinline__ RaggedWork plan_unit(typename Keys::Args const& args, int32_t row_tile,
                                                RowRange keys, int lane) {
  RaggedWork plan;
  plan.first_row = row_tile * Tile::kQueries;
  bool const exists = lane < Tile::kQueries && lane < args.num_rows - plan.first_row;
  plan.row = RowRange{0, 0};
  if (exists) plan.row = Keys::range(args, plan.first_row + lane);
  bool const empty = plan.row.end <= plan.row.begin;
  int32_t const begin =
      max(__reduce_min_sync(~0u, empty ? args.num_keys : plan.row.begin), keys.begin);
  int32_t const end = min(__reduce_max_sync(~0u, empty ? 0 : plan.row.end), keys.end);
  plan.scan_begin = begin / Keys::kScanAlignment * Keys::kScanAlignment;
  plan.tiles = begin < end ? (end - plan.scan_begin + kStageKeys - 1) / kStageKeys : 0;
  plan.store_end = min(plan.scan_begin + plan.tiles * kStageKeys, keys.end);
  return plan;
}

// Halved weights of a row tile. The math warps are a unit behind: nobody waits for these loads.
template <class Tile>
__device__ __forceinline__ void stage_weights(RaggedArgs const& args, int32_t first_row,
                                              float (&weights)[kRaggedColumns], int lane) {
#pragma unroll 4
  for (int column = lane; column < kRaggedColumns; column += 32) {
    int32_t const row = first_row + column / Tile::kHeads;
    float const* at = args.weights + row * args.weights_row_stride + column % Tile::kHeads;
    weights[column] = row < args.num_rows ? halve(__ldg(at)) : 0.f;
  }
}

template <class Tile, class Keys>
__device__ void produce_ragged(typename Keys::Args const& args,
                               typename Keys::template Storage<Tile>& shared, int lane) {
  RingPosition<kQueryStages> queries;
  RingPosition<kKeyStages> keys;
  RaggedWalk walk(args);
  int32_t row_tile;
  RowRange unit_keys;
  while (walk.next(&row_tile, &unit_keys)) {
    RaggedWork const plan = plan_unit<Tile, Keys>(args, row_tile, unit_keys, lane);
    if (plan.tiles == 0) continue;
    typename Keys::template Feed<typename Keys::template Storage<Tile>> feed(args, shared, plan,
                                                                             lane);

    ptx::mbarrier_wait(&shared.query_empty[queries.stage], queries.phase ^ 1);
    RaggedUnit& sent = shared.units[queries.stage];
    if (lane == 0) {
      sent.tiles = plan.tiles;
      sent.first_row = plan.first_row;
      sent.scan_begin = plan.scan_begin;
      sent.store_end = plan.store_end;
    }
    sent.rows[lane] = plan.row;
    stage_weights<Tile>(args, plan.first_row, sent.weights, lane);
    uint64_t* full = &shared.query_full[queries.stage];
    if (ptx::elect_one()) {
      ptx::mbarrier_arrive_expect_tx(full, Tile::kQueryBytes);
      ptx::tma_load_3d(shared.queries[queries.stage], &args.query_map, full, 0, 0, plan.first_row);
    } else {
      ptx::mbarrier_arrive(full);
    }
    queries.advance();

    for (int32_t t = 0; t < plan.tiles; ++t) {
      ptx::mbarrier_wait(&shared.key_empty[keys.stage], keys.phase ^ 1);
      feed.load(keys.stage);
      keys.advance();
    }
  }
  ptx::mbarrier_wait(&shared.query_empty[queries.stage], queries.phase ^ 1);
  if (lane == 0) shared.units[queries.stage].tiles = 0;
  ptx::mbarrier_arrive(&shared.query_full[queries.stage]);
  ptx::launch_dependent_kernels();
}

template <class Tile, class Keys>
__device__ void fill_ragged(typename Keys::Args const& args, int filler_thread, int lane) {
  RaggedWalk walk(args);
  int32_t row_tile;
  RowRange unit_keys;
  while (walk.next(&row_tile, &unit_keys)) {
    RaggedWork const plan = plan_unit<Tile, Keys>(args, row_tile, unit_keys, lane);
    // Scored keys are [scan_begin, store_end): nothing of the unit when there is no tile.
    int32_t const head_end = plan.tiles == 0 ? unit_keys.end : plan.scan_begin;
    int32_t const tail_begin = plan.tiles == 0 ? unit_keys.end : plan.store_end;
    int32_t const rows = min(args.num_rows - plan.first_row, Tile::kQueries);
    for (int32_t r = 0; r < rows; ++r) {
      float* row = args.logits + (plan.first_row + r) * args.logits_row_stride;
      for (int32_t n = unit_keys.begin + filler_thread; n < head_end; n += kFillerWarps * 32) {
        row[n] = -INFINITY;
      }
      for (int32_t n = tail_begin + filler_thread; n < unit_keys.end; n += kFillerWarps * 32) {
        row[n] = -INFINITY;
      }
    }
  }
}

template <class Tile, class Keys, bool kClean>
__device__ void score_ragged(typename Keys::Args const& args,
                             typename Keys::template Storage<Tile>& shared, int warp, int lane) {
  constexpr int kUnroll = Tile::kBanks == 1 ? 4 : 1;
  RingPosition<kQueryStages> queries;
  RingPosition<kKeyStages> keys;
  MathRegisters<Tile> registers;
  uint64_t const first_keys =
      k_major_descriptor(ptx::shared_address(shared.keys) + warp / 4 * kWarpgroupKeys * kHeadDim);
  int const stage_key = key_of_lane(warp, lane);
  int const lane_query = query_of_lane(lane);

  for (;;) {
    ptx::mbarrier_wait(&shared.query_full[queries.stage], queries.phase);
    RaggedUnit const& unit = shared.units[queries.stage];
    int32_t const tiles = unit.tiles;
    if (tiles == 0) return;
    int32_t const first_row = unit.first_row;
    int32_t const store_end = unit.store_end;
    int32_t const rows = args.num_rows - first_row;
#pragma unroll
    for (int b = 0; b < Tile::kBanks; ++b) {
      float const* bank = unit.weights + b * Tile::kColumns;
      load_weights<Tile>(registers.weights[b], lane, [&](int query, int head) {
        return *reinterpret_cast<float2 const*>(bank + query * Tile::kHeads + head);
      });
    }
    uint64_t const query_tile =
        uniform_descriptor(k_major_descriptor(ptx::shared_address(shared.queries[queries.stage])));
    int32_t n = unit.scan_begin + stage_key;
    float* first_out = args.logits + (first_row + lane_query) * args.logits_row_stride + n;
    // Scores the next 64 keys and hands the logits to `store(query)`.
    auto const score = [&](auto ahead, auto const& store) {
      ptx::mbarrier_wait(&shared.key_full[keys.stage], keys.phase);
      LaneKey const key = Keys::lane_key(args, shared, keys.stage, stage_key, ahead);
      score_keys<Tile>(
          registers, descriptor_at(first_keys, keys.stage * kStageBytes), query_tile, key.scale,
          lane,
          [&] {
            if (lane < Keys::kReleasingLanes) ptx::mbarrier_arrive(&shared.key_empty[keys.stage]);
          },
          [&](int query, float logit) {
            if (!key.present) logit = -INFINITY;
            if constexpr (kClean) {
              RowRange const range = unit.rows[query + lane_query];
              if (n < range.begin || n >= range.end) logit = -INFINITY;
            }
            store(query, logit);
          });
      keys.advance();
      n += kStageKeys;
      first_out += kStageKeys;
    };

    // Tiles of whole rows and keys need no test per logit, and load a stage ahead.
    int32_t const whole =
        uniform(rows >= Tile::kQueries ? (store_end - unit.scan_begin) / kStageKeys : 0);
    auto const* next_at = Keys::ahead_at(args, min(n, args.num_keys - 1));
    auto next = __ldg(next_at);
#pragma unroll kUnroll
    for (int32_t t = 0; t < whole; ++t) {
      auto const ahead = next;
      if (t + 1 < whole) next_at += Keys::kAheadPerStage;
      next = __ldg(next_at);
      float* out = first_out;
      score(ahead, [&](int, float logit) {
        *out = logit;
        out += 2 * args.logits_row_stride;
      });
    }
#pragma unroll 1
    for (int32_t t = whole; t < tiles; ++t) {
      auto const ahead = __ldg(Keys::ahead_at(args, min(n, args.num_keys - 1)));
      float* out = first_out;
      score(ahead, [&](int query, float logit) {
        if (n < store_end && query + lane_query < rows) *out = logit;
        out += 2 * args.logits_row_stride;
      });
    }
    ptx::mbarrier_arrive(&shared.query_empty[queries.stage]);
    queries.advance();
  }
}

template <int kHeads, class Keys, bool kClean>
__global__ void __launch_bounds__(kThreads, 1)
    sm90_indexer_logits_kernel(__grid_constant__ typename Keys::Args const args) {
  using Tile = RaggedTile<kHeads>;
  extern __shared__ __align__(1024) uint8_t shared_memory[];
  auto& shared = *reinterpret_cast<typename Keys::template Storage<Tile>*>(shared_memory);
  int const warp = uniform(static_cast<int32_t>(threadIdx.x) / 32);
  int const lane = static_cast<int>(threadIdx.x) % 32;

  if (threadIdx.x == 0) {
    ptx::prefetch_tensor_map(&args.query_map);
    if (Keys::any(args)) ptx::prefetch_tensor_map(&args.key_map);
    init_barriers(shared, kMathWarps * Keys::kReleasingLanes);
  }
  __syncthreads();
  ptx::wait_for_prior_kernels();

  if (warp < kMathWarps) {
    ptx::setmaxnreg_inc<kMathRegisters>();
    score_ragged<Tile, Keys, kClean>(args, shared, warp, lane);
  } else {
    ptx::setmaxnreg_dec<kProducerRegisters>();
    if (warp == kProducerWarp) {
      produce_ragged<Tile, Keys>(args, shared, lane);
    } else if (kClean) {
      fill_ragged<Tile, Keys>(args, static_cast<int>(threadIdx.x) - kFillerWarp * 32, lane);
    }
  }
}

}  // namespace dsa_ops::indexer
