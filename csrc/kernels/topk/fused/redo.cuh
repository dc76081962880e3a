// Rows that their lists do not settle: scored once more, all logits stored, and selected from.
//
// A cluster takes a row tile at a time: its blocks score a part of the keys each, and then select a
// row each. A launch without such rows ends at once.
#pragma once
#include <cstdint>

#include "device/ptx/cluster.cuh"
#include "device/ptx/copy.cuh"
#include "device/ptx/grid.cuh"
#include "device/ptx/mbarrier.cuh"
#include "kernels/indexer/ragged_keys.cuh"
#include "kernels/indexer/scoring.cuh"
#include "kernels/topk/fused/args.h"
#include "kernels/topk/gated/collect.cuh"
#include "kernels/topk/row_range.cuh"
#include "kernels/topk/row_slice.cuh"

namespace dsa_ops::topk_sm90::fused {

inline constexpr int kRescoreStages = 4;
inline constexpr int kRescoreThreads = indexer::kMathWarps * 32;
inline constexpr int kRescoreRegisters = 255;

struct alignas(1024) RescoreStorage {
  alignas(1024) uint8_t queries[Tile::kQueryBytes];
  alignas(1024) uint8_t keys[kRescoreStages][indexer::kStageBytes];
  uint64_t query_full;
  uint64_t key_full[kRescoreStages];
  BinStorage bins;
  uint32_t warp_sums[2][1][kRescoreThreads / 32];
};

// All threads of the block, and no others, score: there is no role beside them.
class Rescore {
 public:
  using Storage = RescoreStorage;

  __device__ Rescore(RescoreArgs const& args, Storage& shared) : args_(args), shared_(shared) {
    if (threadIdx.x == 0) {
      ptx::mbarrier_init(&shared.query_full, 1);
      for (uint64_t& barrier : shared.key_full) ptx::mbarrier_init(&barrier, 1);
      ptx::fence_mbarrier_init();
    }
    __syncthreads();
  }

  // Stores the logits of the tile's rows for its key tiles [begin, end) from scan_begin on.
  __device__ void score(int32_t first_row, int32_t scan_begin, int32_t begin, int32_t end,
                        float* logits) {
    int const warp = indexer::uniform(static_cast<int32_t>(threadIdx.x) / 32);
    int const lane = static_cast<int>(threadIdx.x) % 32;
    if (threadIdx.x == 0) {
      ptx::mbarrier_arrive_expect_tx(&shared_.query_full, Tile::kQueryBytes);
      ptx::tma_load_3d(shared_.queries, &args_.query_map, &shared_.query_full, 0, 0, first_row);
      for (int32_t t = begin; t < min(begin + kRescoreStages, end); ++t) {
        load(t - begin, scan_begin + t * indexer::kStageKeys);
      }
    }
    __syncwarp();
    indexer::MathRegisters<Tile> registers;
#pragma unroll
    for (int b = 0; b < Tile::kBanks; ++b) {
      indexer::load_weights<Tile>(registers.weights[b], lane, [&](int query, int head) {
        int32_t const row = first_row + b * Tile::kBankQueries + query;
        if (row >= args_.num_rows) return make_float2(0.0f, 0.0f);
        float const* const at = args_.weights + row * args_.weights_row_stride + head;
        return make_float2(indexer::halve(__ldg(at)), indexer::halve(__ldg(at + 1)));
      });
    }
    ptx::mbarrier_wait(&shared_.query_full, tile_phase_);
    uint64_t const query_tile =
        indexer::uniform_descriptor(k_major_descriptor(ptx::shared_address(shared_.queries)));
    uint64_t const first_keys = k_major_descriptor(
        ptx::shared_address(shared_.keys) + warp / 4 * indexer::kWarpgroupKeys * indexer::kHeadDim);
    int32_t n = scan_begin + begin * indexer::kStageKeys + indexer::key_of_lane(warp, lane);
    float* const row_logits = logits + indexer::query_of_lane(lane) * args_.logits_row_stride;
#pragma unroll 1
    for (int32_t t = begin; t < end; ++t, n += indexer::kStageKeys) {
      int const stage = (t - begin) % kRescoreStages;
      float const scale = __ldg(args_.k_scale + min(n, args_.num_keys - 1));
      ptx::mbarrier_wait(&shared_.key_full[stage], key_phases_ >> stage & 1);
      key_phases_ ^= 1u << stage;
      indexer::score_keys<Tile>(
          registers, indexer::descriptor_at(first_keys, stage * indexer::kStageBytes), query_tile,
          scale, lane, [] {},
          [&](int query, float logit) {
            if (n < args_.num_keys) row_logits[query * args_.logits_row_stride + n] = logit;
          });
      __syncthreads();
      int32_t const ahead = t + kRescoreStages;
      if (threadIdx.x == 0 && ahead < end) load(stage, scan_begin + ahead * indexer::kStageKeys);
      __syncwarp();
    }
    tile_phase_ ^= 1;
  }

  // Writes the best of a row, in order, from its logits in memory.
  __device__ void select(int32_t row, float const* row_logits) {
    int32_t const call_row = args_.first_row + row;
    topk_sm90::RowRange const range(args_.topk, call_row);
    SlotMap const slot(args_.topk, call_row);
    Slice<LogitsType::kFloat32> const slice(
        reinterpret_cast<uint32_t const*>(row_logits) + range.start, range.length);
    gated::find_best<kRescoreThreads>(
        shared_, slice, args_.topk.top_k,
        [&, indices = args_.topk.indices + int64_t{call_row} * args_.topk.indices_row_stride](
            uint32_t rank, uint32_t, int position) { indices[rank] = slot(position); });
  }

 private:
  __device__ void load(int stage, int32_t key) {
    ptx::mbarrier_arrive_expect_tx(&shared_.key_full[stage], indexer::kStageBytes);
    ptx::tma_load_2d(shared_.keys[stage], &args_.key_map, &shared_.key_full[stage], 0, key);
  }

  RescoreArgs const& args_;
  Storage& shared_;
  uint32_t tile_phase_ = 0;
  uint32_t key_phases_ = 0;  // a bit per stage
};

// What the blocks of a cluster have written, they may all read.
__device__ __forceinline__ void share_with_cluster() {
  __threadfence();
  ptx::cluster_arrive_release();
  ptx::cluster_wait_acquire();
  __threadfence();
}

__global__ void __cluster_dims__(kRescoreCluster) __launch_bounds__(kRescoreThreads, 1)
    rescore_topk_kernel(__grid_constant__ RescoreArgs const args) {
  extern __shared__ __align__(1024) uint8_t shared_memory[];
  auto& shared = *reinterpret_cast<RescoreStorage*>(shared_memory);
  ptx::wait_for_prior_kernels();
  int32_t const clusters = gridDim.x / kRescoreCluster;
  int32_t const cluster = blockIdx.x / kRescoreCluster;
  int32_t const rank = blockIdx.x % kRescoreCluster;
  int32_t const count = *args.redo.count;
  if (cluster >= count) return;

  Rescore rescore(args, shared);
  float* const logits = args.logits + int64_t{cluster} * Tile::kQueries * args.logits_row_stride;
  for (int32_t i = cluster; i < count; i += clusters) {
    int32_t const tile = args.redo.tiles[i];
    int32_t const rows = args.redo.rows[tile];
    int32_t const first_row = tile * Tile::kQueries;
    int32_t begin = args.num_keys;
    int32_t end = 0;
    for (int32_t q = 0; q < Tile::kQueries; ++q) {
      if ((rows >> q & 1) == 0) continue;
      indexer::RowRange const range = indexer::FlatKeys::range(args, first_row + q);
      begin = min(begin, range.begin);
      end = max(end, range.end);
    }
    int32_t const tiles = (end - begin + indexer::kStageKeys - 1) / indexer::kStageKeys;
    rescore.score(first_row, begin, tiles * rank / kRescoreCluster,
                  tiles * (rank + 1) / kRescoreCluster, logits);
    share_with_cluster();
    for (int32_t q = rank; q < Tile::kQueries; q += kRescoreCluster) {
      if ((rows >> q & 1) != 0) {
        rescore.select(first_row + q, logits + q * args.logits_row_stride);
      }
    }
    share_with_cluster();
  }
}

}  // namespace dsa_ops::topk_sm90::fused
