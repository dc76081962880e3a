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

struct PairScores : ScoreWarpgroup<PairTile, false> {
  using Base = ScoreWarpgroup<PairTile, false>;
  static constexpr int kWarpBytes = PairTile::kHeads * 32;  // of probabilities

  // Offsets that are the lane's own. Every instruction of a quarter of a multiprocessor counts, so
  // they are not worked out anew for a block.
  struct Offsets {
    uint32_t token;  // its 16 bytes of a row's token, in a stage
    uint32_t packed, row;

    __device__ __forceinline__ Offsets(int warp, int lane) {
      int const own = warp * 16 + (lane & 15);
      token = token_of_row(warp * 16 + (lane >> 2)) * kTokenPitch + (lane & 3) * 16;
      uint32_t const scales = own * kTokenPitch + kScaleOffset;
      uint32_t const value_scale =
          ((lane >> 4) * kBlockTokens + value_scale_position(row_of_token(own))) * 2;
      uint32_t const probabilities = ((warp & 1) * 2 + ptx::cluster_rank()) * kWarpBytes +
                                     ((lane >> 4) * 8 + (lane & 7)) * 32 +
                                     ((((lane >> 3) ^ (lane >> 2)) & 1) << 4);
      packed = scales | probabilities << 16;
      row = token_of_row(lane >> 2) * 8 | value_scale << 16;
      asm volatile("" : "+r"(token), "+r"(packed), "+r"(row));
    }

    // Two share a register: else each would have its own.
    static __device__ __forceinline__ uint32_t in_place(uint32_t packed) {
      asm volatile("" : "+r"(packed));
      return packed;
    }
    // The scales of the token that the lane prepares, in a stage.
    __device__ __forceinline__ uint32_t scales() const { return in_place(packed) & 0xFFFF; }
    // Its row of the own matrices, in a slot.
    __device__ __forceinline__ uint32_t probabilities() const { return in_place(packed) >> 16; }
    // The place of a value scale that it prepares, in a stage.
    __device__ __forceinline__ uint32_t value_scale() const { return in_place(row) >> 16; }
    // 8 times the token of its first row, of its warp's 16.
    __device__ __forceinline__ uint32_t row_token() const { return in_place(row) & 0xFFFF; }
  };

  Offsets const offset;
  float2 sum[kTiles];  // of probabilities, of two heads and a thread's own tokens
  SlotPlace target;    // of this warp's probabilities
  uint32_t tiles = 0;

  __device__ PairScores(SharedStorage<PairTile>& storage, int thread)
      : Base(storage, thread), offset(warp, thread & 31), target{warp >> 1} {}

  static __device__ __forceinline__ uint32_t at_peer(void const* own) {
    return ptx::map_to_rank(ptx::shared_address(own), ptx::cluster_rank() ^ 1);
  }

  // Each of the warp's tokens by two lanes, one for each of the own groups of output dims; then
  // those of the lane's rows.
  __device__ __forceinline__ void share_scales(TokenScales (&token)[2]) {
    int const stage = place.stage, lane = lane_index(), own = lane & 15, half = lane >> 4;
    uint4 const bits =
        ptx::load_shared_16(ptx::shared_address(shared.token[stage]) + offset.scales());
    TokenScales scales = {};
    uint16_t const value_scale = scales.template read<false>(
        bits, shared.exists[stage][warp] >> own & 1, ptx::cluster_rank() * 2 + half);
    auto* const value_scales = reinterpret_cast<uint8_t*>(shared.value_scale[stage]);
    *reinterpret_cast<uint16_t*>(value_scales + offset.value_scale()) = value_scale;
    // Free: what else is there has been read before the last vote.
    uint32_t const ratios = ptx::shared_address(shared.warp_result[warp]);
    uint32_t const weights = ptx::shared_address(shared.weight[warp]);
    if (half == 0) {
      ptx::store_shared_floats(ratios + own * 16, make_float4(scales.ratio[0], scales.ratio[1],
                                                              scales.scale[0], scales.scale[1]));
      ptx::store_shared_floats(weights + own * 8, make_float2(scales.exponent, scales.inverse));
    }
    release(&shared.value_scale_full[stage]);
    uint32_t const row = offset.row_token();
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      uint4 const ratio = ptx::load_shared_16(ratios + row * 2 + i * 8 * 16);
      uint2 const weight = ptx::load_shared_8(weights + row + i * 8 * 8);
      token[i].ratio[0] = __uint_as_float(ratio.x);
      token[i].ratio[1] = __uint_as_float(ratio.y);
      token[i].scale[0] = __uint_as_float(ratio.z);
      token[i].scale[1] = __uint_as_float(ratio.w);
      token[i].exponent = __uint_as_float(weight.x);
      token[i].inverse = __uint_as_float(weight.y);
    }
  }

  // The chains of ScoreWarpgroup::multiply_chains, with the scales and half of the RoPE bytes where
  // they hold up no product. Warpgroups 1 and 2 are let go once all is issued.
  __device__ __forceinline__ void multiply(Scores& scores, TokenScales (&token)[2]) {
    int const stage = place.stage;
    uint32_t const own = ptx::shared_address(shared.token[stage]) + offset.token;
    uint64_t const query = k_major_descriptor(ptx::shared_address(shared.query));
    using Mma = PairTile::LatentMma;
    Scores second;
    uint32_t fragments[2][4][4];
    uint4 upper = ptx::load_shared_16(own), lower = ptx::load_shared_16(own + kLower);
#pragma unroll
    for (int panel = 0; panel < 8; ++panel) {
      convert(fragments[panel & 1], upper, lower);
      uint32_t const next = panel < 7 ? (panel + 1) * 64 : kRopeOffset;
      upper = ptx::load_shared_16(own + next);
      lower = ptx::load_shared_16(own + kLower + next);
      if (panel == 1) share_scales(token);
      issue<Mma>((panel & 2) == 0 ? scores : second, fragments[panel & 1],
                 query + panel * kPanelStep, (panel & 5) != 0);
      ptx::wgmma_wait<1>();
      if (panel == 2) scale_rows(scores, token[0].ratio[0], token[1].ratio[0]);
      if (panel == 4) scale_rows(second, token[0].ratio[1], token[1].ratio[1]);
      if (panel == 6) scale_rows(scores, token[0].scale[0], token[1].scale[0]);
    }
    rope_half(fragments[0], 0, upper, lower);
    rope_half(fragments[0], 1, ptx::load_shared_16(own + kRopeOffset + 64),
              ptx::load_shared_16(own + kLower + kRopeOffset + 64));
    issue<PairTile::RopeMma>(scores, fragments[0], query + 8 * kPanelStep, true);
    release(&shared.scores_done[place.buffer()]);
    end_chains(stage, scores, second, token);
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
    uint32_t const first =
        ptx::shared_address(shared.probability[target.slot]) + offset.probabilities();
#pragma unroll
    for (int tile = 0; tile < kTiles; tile += 2) {
      ptx::store_matrices_transposed(first + tile * 8 * 32, packed[tile * 2], packed[tile * 2 + 1],
                                     packed[tile * 2 + 2], packed[tile * 2 + 3]);
    }
    PairRescale& rescale = shared.rescale[buffer][ptx::cluster_rank()];
    if (thread_index() == 0) rescale.any = rescales;
    __syncwarp();
    if (lane == 0) ptx::mbarrier_arrive(&shared.probability_ready[warp >> 1][buffer]);
    target.advance<2>();
  }

  // Whether any exponent is above the slack: positive floats are in the order of their bits, and
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
    return max(maximum[0], maximum[1]) > __float_as_int(kSlackLog2<false>);
  }

  __device__ __forceinline__ void publish(KernelArgs const& args, Scores& scores,
                                          TokenScales const (&token)[2], int stage, int buffer) {
    to_exponents(scores, token);
    bool const raises = any_of_warpgroup(!started || exceeds_slack(scores), kScoreVote);
    if (raises) {
      ptx::mbarrier_wait(&shared.probability_empty[target.slot], target.parity ^ 1);
      Raise const to{shared.warp_result, shared.step,
                     shared.rescale[buffer][ptx::cluster_rank()].factor, kScoreVote,
                     args.headroom_log2};
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
  __device__ void run(KernelArgs const& args, int num_blocks) {
    started = false;
#pragma unroll
    for (float2& sums : sum) sums = make_float2(0.f, 0.f);
#pragma unroll 1
    for (int block = 0; block < num_blocks; ++block) {
      ptx::mbarrier_wait(&shared.token_full[place.stage], place.stage_parity);
      Scores scores;
      TokenScales token[2];
      multiply(scores, token);
      publish(args, scores, token, place.stage, place.buffer());
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
