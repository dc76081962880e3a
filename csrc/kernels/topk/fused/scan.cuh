// The indexer's ragged kernel with lists for a sink: of a row's logits those that pass its gate.
//
// Each of the 128 math lanes that score a row has a list of its own for it, so nothing is counted
// between threads: a logit that passes is stored, and the lane's place in its list moves on. Blocks
// take equal shares of the key tiles that the row tiles have to score (work.cuh), in order; where a
// share ends within a row tile, the next block fills the same lists from their other ends.
//
// Roles and barriers are those of kernels/indexer/sm90_ragged.cuh, without fillers.
#pragma once
#include <cmath>
#include <cstdint>

#include "device/ptx/copy.cuh"
#include "device/ptx/grid.cuh"
#include "device/ptx/mbarrier.cuh"
#include "device/ptx/warp.cuh"
#include "kernels/indexer/ragged_keys.cuh"
#include "kernels/indexer/scoring.cuh"
#include "kernels/indexer/sm90_ragged.cuh"
#include "kernels/topk/fused/args.h"

namespace dsa_ops::topk_sm90::fused {

using indexer::FlatKeys;
using indexer::kMathWarps;
using indexer::kStageKeys;
using indexer::RowRange;

// The part of a row tile that a block scans.
struct alignas(16) ScanUnit {
  RowGate gates[kTileRows];
  RowRange rows[kTileRows];
  int32_t tiles;  // of keys; 0: no more work
  int32_t first_row;
  int32_t scan_begin;              // first key
  int32_t whole_begin, whole_end;  // tiles without a test but that of the high gates
  bool is_rest;                    // another block has the row tile's first keys
  bool is_last;                    // and none has keys behind
  alignas(8) float weights[indexer::kRaggedColumns];
};

struct alignas(1024) ScanStorage : indexer::Barriers {
  alignas(1024) uint8_t queries[indexer::kQueryStages][Tile::kQueryBytes];
  alignas(1024) uint8_t keys[indexer::kKeyStages][indexer::kStageBytes];
  ScanUnit units[indexer::kQueryStages];
};

// The row tiles of this block's share, in order.
class ScanWalk {
 public:
  explicit __device__ ScanWalk(ScanArgs const& args) : tile_begins_(args.tile_begins) {
    int32_t const total = __ldg(&args.work->total);
    int32_t const share = __ldg(&args.work->share);
    at_ = min(static_cast<int32_t>(blockIdx.x) * share, total);
    end_ = min(at_ + share, total);
    if (at_ == end_) return;
    row_tile_ = __ldg(args.first_tiles + blockIdx.x);
    begin_ = __ldg(tile_begins_ + row_tile_);
    next_begin_ = __ldg(tile_begins_ + row_tile_ + 1);
  }

  // False after the last; else the row tile and which of its key tiles, of how many.
  __device__ bool next(int32_t* row_tile, RowRange* tiles, bool* is_last) {
    if (at_ == end_) return false;
    while (at_ == next_begin_) {
      ++row_tile_;
      begin_ = next_begin_;
      next_begin_ = __ldg(tile_begins_ + row_tile_ + 1);
    }
    int32_t const until = min(end_, next_begin_);
    *row_tile = row_tile_;
    *tiles = RowRange{at_ - begin_, until - begin_};
    *is_last = until == next_begin_;
    at_ = until;
    return true;
  }

 private:
  int32_t const* tile_begins_;
  int32_t at_ = 0;
  int32_t end_ = 0;
  int32_t row_tile_ = 0;
  int32_t begin_ = 0;
  int32_t next_begin_ = 0;
};

// What the lanes of the producer know of a unit, and of the tile's row `lane`.
struct ScanPlan {
  int32_t scan_begin, tiles;
  int32_t whole_begin, whole_end;
  RowRange row;
  RowGate gate;
};

__device__ __forceinline__ ScanPlan plan_scan(ScanArgs const& args, int32_t first_row,
                                              RowRange const& tiles, int lane) {
  ScanPlan plan;
  plan.row = RowRange{0, 0};
  plan.gate = RowGate{NAN, NAN, 0};
  if (lane < kTileRows && lane < args.num_rows - first_row) {
    plan.row = FlatKeys::range(args, first_row + lane);
    plan.gate = args.gates[first_row + lane];
  }
  bool const empty = plan.row.end <= plan.row.begin;
  int32_t const begin = __reduce_min_sync(~0u, empty ? args.num_keys : plan.row.begin);
  int32_t const whole_begin =
      __reduce_max_sync(~0u, empty ? 0 : max(plan.row.begin, plan.gate.low_end));
  int32_t const whole_end = __reduce_min_sync(~0u, empty ? args.num_keys : plan.row.end);
  plan.scan_begin =
      begin / FlatKeys::kScanAlignment * FlatKeys::kScanAlignment + tiles.begin * kStageKeys;
  plan.tiles = tiles.end - tiles.begin;
  plan.whole_begin =
      min((max(whole_begin - plan.scan_begin, 0) + kStageKeys - 1) / kStageKeys, plan.tiles);
  plan.whole_end =
      min(max(max(whole_end - plan.scan_begin, 0) / kStageKeys, plan.whole_begin), plan.tiles);
  return plan;
}

__device__ void produce_scan(ScanArgs const& args, ScanStorage& shared, int lane) {
  indexer::RingPosition<indexer::kQueryStages> queries;
  indexer::RingPosition<indexer::kKeyStages> keys;
  ScanWalk walk(args);
  int32_t row_tile;
  RowRange tiles;
  bool is_last;
  while (walk.next(&row_tile, &tiles, &is_last)) {
    int32_t const first_row = row_tile * kTileRows;
    ScanPlan const plan = plan_scan(args, first_row, tiles, lane);
    ptx::mbarrier_wait(&shared.query_empty[queries.stage], queries.phase ^ 1);
    ScanUnit& sent = shared.units[queries.stage];
    if (lane == 0) {
      sent.tiles = plan.tiles;
      sent.first_row = first_row;
      sent.scan_begin = plan.scan_begin;
      sent.whole_begin = plan.whole_begin;
      sent.whole_end = plan.whole_end;
      sent.is_rest = tiles.begin > 0;
      sent.is_last = is_last;
    }
    if (lane < kTileRows) {
      sent.rows[lane] = plan.row;
      sent.gates[lane] = plan.gate;
    }
    indexer::stage_weights<Tile>(args, first_row, sent.weights, lane);
    uint64_t* full = &shared.query_full[queries.stage];
    if (ptx::elect_one()) {
      ptx::mbarrier_arrive_expect_tx(full, Tile::kQueryBytes);
      ptx::tma_load_3d(shared.queries[queries.stage], &args.query_map, full, 0, 0, first_row);
    } else {
      ptx::mbarrier_arrive(full);
    }
    queries.advance();

    indexer::RaggedWork const work{first_row, plan.scan_begin, plan.tiles, 0, plan.row};
    FlatKeys::Feed<ScanStorage> feed(args, shared, work, lane);
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

// Of a math lane and a row: where its list continues and where it is full, in bytes of `lists`.
struct ListPlace {
  uint32_t at;
  uint32_t end;
};

// Appends a logit that passes, unless the list is full. PTX, so that nothing branches.
__device__ __forceinline__ void append(uint8_t* lists, ListPlace& place, int32_t step, float logit,
                                       float gate, int32_t key) {
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "setp.ne.u32 p, %0, %1;\n"
      "setp.ge.and.f32 p, %2, %3, p;\n"
      "@p st.global.v2.b32 [%4], {%2, %5};\n"
      "@p add.s32 %0, %0, %6;\n"
      "}"
      : "+r"(place.at)
      : "r"(place.end), "f"(logit), "f"(gate), "l"(lists + place.at), "r"(key), "r"(step)
      : "memory");
}

__device__ void scan_rows(ScanArgs const& args, ScanStorage& shared, int warp, int lane) {
  constexpr int kPairs = kTileRows / 2;
  indexer::RingPosition<indexer::kQueryStages> queries;
  indexer::RingPosition<indexer::kKeyStages> keys;
  indexer::MathRegisters<Tile> registers;
  uint64_t const first_keys = k_major_descriptor(
      ptx::shared_address(shared.keys) + warp / 4 * indexer::kWarpgroupKeys * indexer::kHeadDim);
  int const stage_key = indexer::key_of_lane(warp, lane);
  int const lane_query = indexer::query_of_lane(lane);

  for (;;) {
    ptx::mbarrier_wait(&shared.query_full[queries.stage], queries.phase);
    ScanUnit const& unit = shared.units[queries.stage];
    int32_t const tiles = unit.tiles;
    if (tiles == 0) return;
#pragma unroll
    for (int b = 0; b < Tile::kBanks; ++b) {
      float const* bank = unit.weights + b * Tile::kColumns;
      indexer::load_weights<Tile>(registers.weights[b], lane, [&](int query, int head) {
        return *reinterpret_cast<float2 const*>(bank + query * Tile::kHeads + head);
      });
    }
    uint64_t const query_tile = indexer::uniform_descriptor(
        k_major_descriptor(ptx::shared_address(shared.queries[queries.stage])));
    int32_t const step = indexer::uniform(unit.is_rest ? -kSlotBytes : kSlotBytes);
    ListPlace places[kPairs];
    float gates[kPairs];
#pragma unroll
    for (int p = 0; p < kPairs; ++p) {
      int32_t const row = unit.first_row + 2 * p + lane_query;
      int32_t const slot = unit.is_rest ? args.capacity - 1 : 0;
      places[p].at =
          static_cast<uint32_t>((row * kMathWarps + warp) * args.capacity + slot) * kSlotBytes +
          stage_key % kListLanes * static_cast<uint32_t>(sizeof(Candidate));
      places[p].end = places[p].at + args.capacity * step;
      gates[p] = unit.gates[2 * p + lane_query].high;
    }

    int32_t n = unit.scan_begin + stage_key;
    // Scores the next 64 keys and hands the logits to `take(query, logit)`.
    auto const score = [&](float scale, auto const& take) {
      ptx::mbarrier_wait(&shared.key_full[keys.stage], keys.phase);
      indexer::score_keys<Tile>(
          registers, indexer::descriptor_at(first_keys, keys.stage * indexer::kStageBytes),
          query_tile, scale, lane,
          [&] {
            if (lane == 0) ptx::mbarrier_arrive(&shared.key_empty[keys.stage]);
          },
          take);
      keys.advance();
      n += kStageKeys;
    };
    auto const score_some = [&](int32_t number) {
#pragma unroll 1
      for (int32_t t = 0; t < number; ++t) {
        score(__ldg(args.k_scale + min(n, args.num_keys - 1)), [&](int query, float logit) {
          RowRange const range = unit.rows[query + lane_query];
          RowGate const& row = unit.gates[query + lane_query];
          float gate = n < row.low_end ? row.low : row.high;
          if (n < range.begin || n >= range.end) gate = NAN;
          append(args.lists, places[query / 2], step, logit, gate, n);
        });
      }
    };

    int32_t const whole = indexer::uniform(unit.whole_end - unit.whole_begin);
    score_some(unit.whole_begin);
    float const* next_at = args.k_scale + min(n, args.num_keys - 1);
    float next = __ldg(next_at);
#pragma unroll 4
    for (int32_t t = 0; t < whole; ++t) {
      float const scale = next;
      if (t + 1 < whole) next_at += kStageKeys;
      next = __ldg(next_at);
      score(scale, [&](int query, float logit) {
        append(args.lists, places[query / 2], step, logit, gates[query / 2], n);
      });
    }
    score_some(tiles - unit.whole_end);

#pragma unroll
    for (int p = 0; p < kPairs; ++p) {
      int32_t const row = unit.first_row + 2 * p + lane_query;
      if (row >= args.num_rows) continue;
      uint16_t* const counts =
          args.counts + row * kParts * kRowLists + warp * kListLanes + stage_key % kListLanes;
      uint32_t const free = (places[p].end - places[p].at) / static_cast<uint32_t>(kSlotBytes);
      uint32_t const rest_free = (places[p].at - places[p].end) / static_cast<uint32_t>(kSlotBytes);
      counts[unit.is_rest ? kRowLists : 0] =
          static_cast<uint16_t>(args.capacity - (unit.is_rest ? rest_free : free));
      if (!unit.is_rest && unit.is_last) counts[kRowLists] = 0;
    }
    ptx::mbarrier_arrive(&shared.query_empty[queries.stage]);
    queries.advance();
  }
}

__global__ void __launch_bounds__(indexer::kThreads, 1)
    sm90_indexer_scan_kernel(__grid_constant__ ScanArgs const args) {
  extern __shared__ __align__(1024) uint8_t shared_memory[];
  auto& shared = *reinterpret_cast<ScanStorage*>(shared_memory);
  int const warp = indexer::uniform(static_cast<int32_t>(threadIdx.x) / 32);
  int const lane = static_cast<int>(threadIdx.x) % 32;

  if (threadIdx.x == 0) {
    ptx::prefetch_tensor_map(&args.query_map);
    ptx::prefetch_tensor_map(&args.key_map);
    indexer::init_barriers(shared, kMathWarps);
  }
  __syncthreads();
  ptx::wait_for_prior_kernels();

  if (warp < kMathWarps) {
    ptx::setmaxnreg_inc<indexer::kMathRegisters>();
    scan_rows(args, shared, warp, lane);
  } else {
    ptx::setmaxnreg_dec<indexer::kProducerRegisters>();
    if (warp == indexer::kProducerWarp) produce_scan(args, shared, lane);
  }
}

}  // namespace dsa_ops::topk_sm90::fused
