// indexer_logits: logits[t, n] = k_scale[n] * sum_h weights[t, h] * relu(q[t, h] . k[n]).
//
// A block takes units of (row tile, chunk of keys) in turn. Of a unit it scores the keys between
// the first and the last that any row of the tile sees, 128 at a time.
//
//   warps 0-7   two math warpgroups: 64 keys of each stage, wgmma and epilogue in registers
//   warp 8      producer: works the units out, feeds queries and keys by TMA
//   warps 9-11  when `clean`: -inf for the keys of a chunk that are not scored
//
// Rings and barriers:
//   query_full[2]   1 arrival (producer, with the bytes of the query tile); the math warps wait
//   query_empty[2]  8 arrivals (one per math warp, after a unit's last tile); the producer waits
//   key_full[8]     1 arrival (producer, with the bytes of a stage); the math warps wait
//   key_empty[8]    8 arrivals (one per math warp: the end of a wgmma is known per warp); the
//                   producer waits
// The producer ends with a unit of 0 tiles. Everything it loads is waited for, so no copy is in
// flight when the block exits.
#pragma once
#include <cmath>
#include <cstdint>

#include "device/ptx/copy.cuh"
#include "device/ptx/mbarrier.cuh"
#include "device/ptx/warp.cuh"
#include "kernels/indexer/args.h"
#include "kernels/indexer/scoring.cuh"

namespace dsa_ops::indexer {

// A unit of work as every lane of a warp sees it, and the range of the tile's row `lane`.
struct RaggedWork {
  int32_t first_row;
  int32_t chunk_begin, chunk_end;
  int32_t scan_begin, tiles, store_end;
  RowRange row;
};

// Units in the order of this block. The last rows come first (in causal prefill they see the most
// keys) and every second round runs backwards, so that the blocks' shares even out.
__device__ __forceinline__ int32_t unit_of_round(int32_t round) {
  int32_t const grid = static_cast<int32_t>(gridDim.x);
  int32_t const block = static_cast<int32_t>(blockIdx.x);
  return round * grid + (round % 2 == 0 ? block : grid - 1 - block);
}

__device__ __forceinline__ int32_t clamp_key(int32_t key, int32_t num_keys) {
  return min(max(key, 0), num_keys);
}

template <class Tile>
__device__ __forceinline__ RaggedWork plan_unit(RaggedArgs const& args, int32_t unit, int lane) {
  RaggedWork plan;
  int32_t const row_tiles = args.units / args.chunks;
  plan.first_row = (row_tiles - 1 - unit / args.chunks) * Tile::kQueries;
  plan.chunk_begin = unit % args.chunks * args.chunk_keys;
  plan.chunk_end = min(plan.chunk_begin + args.chunk_keys, args.num_keys);

  bool const exists = lane < Tile::kQueries && lane < args.num_rows - plan.first_row;
  plan.row = RowRange{0, 0};
  if (exists) {
    plan.row.begin = clamp_key(__ldg(args.row_starts + plan.first_row + lane), args.num_keys);
    plan.row.end = clamp_key(__ldg(args.row_ends + plan.first_row + lane), args.num_keys);
  }
  bool const empty = plan.row.end <= plan.row.begin;
  int32_t const begin = __reduce_min_sync(~0u, empty ? args.num_keys : plan.row.begin);
  int32_t const end = __reduce_max_sync(~0u, empty ? 0 : plan.row.end);
  // Stores of 16 keys start on a 64-byte boundary where the row itself does.
  plan.scan_begin = max(begin, plan.chunk_begin) / 16 * 16;
  int32_t const scan_keys = max(min(end, plan.chunk_end) - plan.scan_begin, 0);
  plan.tiles = max(begin, plan.chunk_begin) < min(end, plan.chunk_end)
                   ? (scan_keys + kStageKeys - 1) / kStageKeys
                   : 0;
  plan.store_end = min(plan.scan_begin + plan.tiles * kStageKeys, plan.chunk_end);
  return plan;
}

template <class Tile>
__device__ void produce_ragged(RaggedArgs const& args, RaggedStorage<Tile>& shared, int lane) {
  RingPosition<kQueryStages> queries;
  RingPosition<kKeyStages> keys;
  for (int32_t round = 0; round * static_cast<int32_t>(gridDim.x) < args.units; ++round) {
    int32_t const unit = unit_of_round(round);
    if (unit >= args.units) continue;
    RaggedWork const plan = plan_unit<Tile>(args, unit, lane);
    if (plan.tiles == 0) continue;

    ptx::mbarrier_wait(&shared.query_empty[queries.stage], queries.phase ^ 1);
    RaggedUnit& sent = shared.units[queries.stage];
    if (lane == 0) {
      sent.tiles = plan.tiles;
      sent.first_row = plan.first_row;
      sent.scan_begin = plan.scan_begin;
      sent.store_end = plan.store_end;
    }
    sent.rows[lane] = plan.row;
    __syncwarp();  // the arrival below publishes every lane's writes
    if (ptx::elect_one()) {
      uint64_t* full = &shared.query_full[queries.stage];
      ptx::mbarrier_arrive_expect_tx(full, Tile::kQueryBytes);
      ptx::tma_load_3d(shared.queries[queries.stage], &args.query_map, full, 0, 0, plan.first_row);
    }
    queries.advance();

    for (int32_t t = 0; t < plan.tiles; ++t) {
      ptx::mbarrier_wait(&shared.key_empty[keys.stage], keys.phase ^ 1);
      if (ptx::elect_one()) {
        uint64_t* full = &shared.key_full[keys.stage];
        ptx::mbarrier_arrive_expect_tx(full, kStageBytes);
        ptx::tma_load_2d(shared.keys[keys.stage], &args.key_map, full, 0,
                         plan.scan_begin + t * kStageKeys);
      }
      keys.advance();
    }
  }
  ptx::mbarrier_wait(&shared.query_empty[queries.stage], queries.phase ^ 1);
  if (ptx::elect_one()) {
    shared.units[queries.stage].tiles = 0;
    ptx::mbarrier_arrive(&shared.query_full[queries.stage]);
  }
}

template <class Tile>
__device__ void fill_ragged(RaggedArgs const& args, int filler_thread, int lane) {
  for (int32_t round = 0; round * static_cast<int32_t>(gridDim.x) < args.units; ++round) {
    int32_t const unit = unit_of_round(round);
    if (unit >= args.units) continue;
    RaggedWork const plan = plan_unit<Tile>(args, unit, lane);
    // Scored keys are [scan_begin, store_end): nothing of the chunk when there is no tile.
    int32_t const head_end = plan.tiles == 0 ? plan.chunk_end : plan.scan_begin;
    int32_t const tail_begin = plan.tiles == 0 ? plan.chunk_end : plan.store_end;
    int32_t const rows = min(args.num_rows - plan.first_row, Tile::kQueries);
    for (int32_t r = 0; r < rows; ++r) {
      float* row = args.logits + (plan.first_row + r) * args.logits_row_stride;
      for (int32_t n = plan.chunk_begin + filler_thread; n < head_end; n += kFillerWarps * 32) {
        row[n] = -INFINITY;
      }
      for (int32_t n = tail_begin + filler_thread; n < plan.chunk_end; n += kFillerWarps * 32) {
        row[n] = -INFINITY;
      }
    }
  }
}

template <class Tile, bool kClean>
__device__ void score_ragged(RaggedArgs const& args, RaggedStorage<Tile>& shared, int warp,
                             int lane) {
  RingPosition<kQueryStages> queries;
  RingPosition<kKeyStages> keys;
  MathRegisters<Tile> registers;
  uint64_t const first_keys =
      k_major_descriptor(ptx::shared_address(shared.keys) + warp / 4 * kWarpgroupKeys * kHeadDim);
  int const lane_query = query_of_lane(lane);

  for (;;) {
    ptx::mbarrier_wait(&shared.query_full[queries.stage], queries.phase);
    RaggedUnit const& unit = shared.units[queries.stage];
    int32_t const tiles = unit.tiles;
    if (tiles == 0) return;
    int32_t const first_row = unit.first_row;
    int32_t const store_end = unit.store_end;
    int32_t const lane_rows = args.num_rows - first_row - lane_query;
#pragma unroll
    for (int b = 0; b < Tile::kBanks; ++b) {
      int32_t const row = first_row + b * Tile::kBankQueries;
      load_weights<Tile>(registers.weights[b], args.weights + row * args.weights_row_stride,
                         args.weights_row_stride, args.num_rows - row, lane);
    }
    uint64_t const query_tile =
        k_major_descriptor(ptx::shared_address(shared.queries[queries.stage]));
    int32_t n = unit.scan_begin + key_of_lane(warp, lane);
    float* first_out = args.logits + (first_row + lane_query) * args.logits_row_stride + n;

    for (int32_t t = 0; t < tiles; ++t) {
      float const scale = __ldg(args.k_scale + min(n, args.num_keys - 1));
      float* out = first_out;
      ptx::mbarrier_wait(&shared.key_full[keys.stage], keys.phase);
      score_keys<Tile>(
          registers, descriptor_at(first_keys, keys.stage * kStageBytes), query_tile, scale, lane,
          [&] {
            if (lane == 0) ptx::mbarrier_arrive(&shared.key_empty[keys.stage]);
          },
          [&](int query, float logit) {
            if constexpr (kClean) {
              RowRange const range = unit.rows[query + lane_query];
              if (n < range.begin || n >= range.end) logit = -INFINITY;
            }
            if (n < store_end && query < lane_rows) *out = logit;
            out += 2 * args.logits_row_stride;
          });
      keys.advance();
      n += kStageKeys;
      first_out += kStageKeys;
    }
    __syncwarp();  // every lane has read the unit
    if (lane == 0) ptx::mbarrier_arrive(&shared.query_empty[queries.stage]);
    queries.advance();
  }
}

template <int kHeads, bool kClean>
__global__ void __launch_bounds__(kThreads, 1)
    sm90_indexer_logits_kernel(__grid_constant__ RaggedArgs const args) {
  using Tile = RaggedTile<kHeads>;
  extern __shared__ __align__(1024) uint8_t shared_memory[];
  auto& shared = *reinterpret_cast<RaggedStorage<Tile>*>(shared_memory);
  // Through a shuffle, so that the compiler knows it to be the same in the whole warp.
  int const warp = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / 32, 0);
  int const lane = static_cast<int>(threadIdx.x) % 32;

  if (threadIdx.x == 0) {
    ptx::prefetch_tensor_map(&args.query_map);
    ptx::prefetch_tensor_map(&args.key_map);
    init_barriers(shared);
  }
  __syncthreads();

  if (warp < kMathWarps) {
    ptx::setmaxnreg_inc<kMathRegisters>();
    score_ragged<Tile, kClean>(args, shared, warp, lane);
  } else {
    ptx::setmaxnreg_dec<kProducerRegisters>();
    if (warp == kProducerWarp) {
      produce_ragged<Tile>(args, shared, lane);
    } else if (kClean) {
      fill_ragged<Tile>(args, static_cast<int>(threadIdx.x) - kFillerWarp * 32, lane);
    }
  }
}

}  // namespace dsa_ops::indexer
