// Warpgroup 0 of a thread block of a pair: scores of its own 64 heads, as in scores.cuh, and
// probabilities for both blocks.
#pragma once
#include "device/ptx/cluster.cuh"
#include "kernels/sparse_mla/fp8/pair_traits.h"
#include "kernels/sparse_mla/fp8/scores.cuh"

namespace dsa_ops::sparse_mla::fp8 {

// The tile of a thread block of a pair: a row's first or last 64 heads.
__device__ __forceinline__ Tile pair_tile_of(KernelArgs const& args, uint32_t row) {
  int const first_head = ptx::cluster_rank() * PairTile::kHeads;
  return {row, first_head, min(PairTile::kHeads, args.num_heads - first_head), 0};
}
__device__ __forceinline__ uint32_t first_pair() { return first_tile() >> 1; }
__device__ __forceinline__ uint32_t pair_step() { return tile_step() >> 1; }

struct PairScores : ScoreWarpgroup<PairTile> {
  using Base = ScoreWarpgroup<PairTile>;
  static constexpr int kWarpBytes = PairTile::kHeads * 32;  // of probabilities

  float2 sum[kTiles];  // of probabilities, of two heads and a thread's own tokens
  SlotPlace target;    // of this warp's probabilities
  uint32_t tiles = 0;

  __device__ PairScores(SharedStorage<PairTile>& storage, int thread)
      : Base(storage, thread), target{warp >> 1} {}

  static __device__ __forceinline__ uint32_t at_peer(void const* own) {
    return ptx::map_to_rank(ptx::shared_address(own), ptx::cluster_rank() ^ 1);
  }

  __device__ __forceinline__ void exponentiate(Scores const& exponents,
                                               TokenScales const (&token)[2],
                                               uint32_t (&packed)[kColumns]) {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      sum[tile] = add_probabilities(sum[tile], exponentiate_tile(exponents, tile, packed), token);
    }
  }

  // To the own block's place, and from there to the other's.
  __device__ __forceinline__ void hand_out(uint32_t const (&packed)[kColumns], int buffer,
                                           bool rescales) {
    int const lane = lane_index();
    uint32_t const rank = ptx::cluster_rank();
    auto& own = shared.probability[target.slot][warp & 1][rank];
    uint32_t const first = ptx::shared_address(own) + ((lane >> 4) * 8 + (lane & 7)) * 32 +
                           ((((lane >> 3) ^ (lane >> 2)) & 1) << 4);
#pragma unroll
    for (int tile = 0; tile < kTiles; tile += 2) {
      ptx::store_matrices_transposed(first + tile * 8 * 32, packed[tile * 2], packed[tile * 2 + 1],
                                     packed[tile * 2 + 2], packed[tile * 2 + 3]);
    }
    PairRescale& rescale = shared.rescale[buffer][rank];
    if (thread_index() == 0) rescale.any = rescales;
    __syncwarp();
    if (lane == 0) ptx::mbarrier_arrive(&shared.probability_ready[warp >> 1][buffer]);
    target.advance<2>();
  }

  // Whether any exponent is above kSlackLog2: positive floats are in the order of their bits, and
  // the maximum of three integers is one instruction.
  static __device__ __forceinline__ bool exceeds_slack(Scores const& exponents) {
    int maximum[2] = {__float_as_int(exponents[0]), __float_as_int(exponents[1])};
#pragma unroll
    for (int i = 2; i < 2 * kColumns; i += 4) {
      for (int chain = 0; chain < 2; ++chain) {
        int const j = i + 2 * chain;
        if (j + 1 < 2 * kColumns) {
          maximum[chain] = __vimax3_s32(maximum[chain], __float_as_int(exponents[j]),
                                        __float_as_int(exponents[j + 1]));
        }
      }
    }
    return max(maximum[0], maximum[1]) > __float_as_int(kSlackLog2);
  }

  __device__ __forceinline__ void publish(Scores& scores, TokenScales const (&token)[2], int stage,
                                          int buffer) {
    to_exponents(scores, token);
    bool const raises = any_of_warpgroup(!started || exceeds_slack(scores), kScoreVote);
    if (raises) {
      ptx::mbarrier_wait(&shared.probability_empty[target.slot], target.parity ^ 1);
      Raise const to{shared.warp_result, shared.step,
                     shared.rescale[buffer][ptx::cluster_rank()].factor, kScoreVote};
      raise_references(scores, thread_index(), started, to, [this](int tile, float2 factor) {
        sum[tile] = make_float2(sum[tile].x * factor.x, sum[tile].y * factor.y);
      });
    }
    uint32_t packed[kColumns];
    exponentiate(scores, token, packed);
    bool const rescales = raises && started;
    if (!started) started = any_token(stage) != 0;
    ptx::mbarrier_wait(&shared.probability_empty[target.slot], target.parity ^ 1);
    hand_out(packed, buffer, rescales);
  }

  // One tile.
  __device__ void run(int num_blocks) {
    started = false;
#pragma unroll
    for (float2& sums : sum) sums = make_float2(0.f, 0.f);
#pragma unroll 1
    for (int block = 0; block < num_blocks; ++block) {
      ptx::mbarrier_wait(&shared.token_full[place.stage], place.stage_parity);
      Scores scores;
      TokenScales token[2];
      multiply(place.stage, scores, token);
      publish(scores, token, place.stage, place.buffer());
      place.advance();
    }
  }

  // Log-sum-exp of the own heads, and the factors that normalise the output, for both blocks.
  __device__ void finish(KernelArgs const& args, Tile const& tile) {
    int const thread = thread_index();
    int const lane = thread & 31;
    store_sums(thread, [this](int tile) { return sum[tile]; });
    uint32_t const parity = (tiles++ & 1) ^ 1;
    if (thread >= PairTile::kHeads) return;
    float const total = sum_of_warps(shared.warp_result, thread);
    float const reference = -shared.column[thread].y;
    bool const empty = total == 0.f;
    float const lse = empty ? -INFINITY : (ptx::log2_approx(total) + reference) * kLn2;
    float factor = empty ? 0.f : __fdividef(1.f, total);
    int const head = tile.first_head + thread;
    if (thread < tile.heads) {
      if (args.attn_sink && !empty) {
        factor = __fdividef(factor, 1.f + __expf(args.attn_sink[head] - lse));
      }
      args.lse[tile.row * args.num_heads + head] = lse;
    }
    ptx::mbarrier_wait(&shared.factor_empty, parity);
    float& target = shared.output_factor[head];
    target = factor;
    ptx::store_async(at_peer(&target), __float_as_uint(factor), at_peer(&shared.factor_full));
    __syncwarp();
    if (lane == 0) {
      if (thread == 0) {
        ptx::mbarrier_arrive_expect_tx(&shared.factor_full, PairTile::kHeads * sizeof(float));
      } else {
        ptx::mbarrier_arrive(&shared.factor_full);
      }
    }
  }
};

}  // namespace dsa_ops::sparse_mla::fp8
