// What every indexer kernel computes: the logits of 64 keys x one query tile in a warpgroup.
//
//   logit[query, key] = scale[key] * sum_h weight[query, h] * relu(q[query, h, :] . k[key, :])
//
// This is the only place where logits are computed. The order of the sum depends on the head
// count alone, so a (query row, key) pair gives the same bits in every kernel, tile and position.
//
// A wgmma has the keys as its 64 rows and (query, head) as its columns. In thread `lane` of warp w,
// accumulator 4 j + 2 half + c is the product of key 16 w + lane / 4 + 8 half and column
// 8 j + 2 (lane % 4) + c. The four lanes of a quad thus hold a quarter of the heads of two keys
// each; a transposing butterfly over the quad sums the quarters and leaves one logit per lane:
// that of key 16 w + lane / 4 + 8 (lane & 1) and of query 2 pair + (lane >> 1 & 1).
#pragma once
#include <cstdint>

#include "device/ptx/copy.cuh"
#include "device/wgmma.cuh"
#include "kernels/indexer/traits.h"

namespace dsa_ops::indexer {

template <int kColumns>
struct ScoreInstruction;
template <>
struct ScoreInstruction<8> {
  using Type = cute::SM90::GMMA::MMA_64x8x32_F32E4M3E4M3_SS_TN<>;
};
template <>
struct ScoreInstruction<16> {
  using Type = cute::SM90::GMMA::MMA_64x16x32_F32E4M3E4M3_SS_TN<>;
};
template <>
struct ScoreInstruction<32> {
  using Type = cute::SM90::GMMA::MMA_64x32x32_F32E4M3E4M3_SS_TN<>;
};
template <>
struct ScoreInstruction<64> {
  using Type = cute::SM90::GMMA::MMA_64x64x32_F32E4M3E4M3_SS_TN<>;
};
template <>
struct ScoreInstruction<128> {
  using Type = cute::SM90::GMMA::MMA_64x128x32_F32E4M3E4M3_SS_TN<>;
};
template <>
struct ScoreInstruction<256> {
  using Type = cute::SM90::GMMA::MMA_64x256x32_F32E4M3E4M3_SS_TN<>;
};

// Through a shuffle the compiler knows a value to be the same in the whole warp: it stays in a
// uniform register and branches on it need no convergence.
__device__ __forceinline__ int32_t uniform(int32_t value) { return __shfl_sync(~0u, value, 0); }

// The key of a 128-key stage and the query of a pair whose logits end in this lane.
__device__ __forceinline__ int key_of_lane(int math_warp, int lane) {
  return math_warp * 16 + lane / 4 + 8 * (lane & 1);
}
__device__ __forceinline__ int query_of_lane(int lane) { return lane >> 1 & 1; }

// A position in a ring of stages. Consumers wait for `phase`, producers for `phase ^ 1`, which a
// fresh barrier passes.
template <int kStages>
struct RingPosition {
  uint32_t stage = 0;
  uint32_t phase = 0;

  __device__ __forceinline__ void advance(uint32_t stages = kStages) {
    if (++stage == stages) {
      stage = 0;
      phase ^= 1;
    }
  }
};

// Run by one thread; __syncthreads then publishes the barriers.
__device__ __forceinline__ void init_barriers(Barriers& barriers, uint32_t key_empty_arrivals) {
  for (int i = 0; i < kQueryStages; ++i) {
    ptx::mbarrier_init(&barriers.query_full[i], 32);
    ptx::mbarrier_init(&barriers.query_empty[i], kMathWarps * 32);
  }
  for (int i = 0; i < kKeyStages; ++i) {
    ptx::mbarrier_init(&barriers.key_full[i], 1);
    ptx::mbarrier_init(&barriers.key_empty[i], key_empty_arrivals);
  }
  ptx::fence_mbarrier_init();
}

// The descriptor of a tile that lies `bytes` further. Only the low word of a descriptor varies: a
// 64-bit addition would cost carries in the main loop.
inline constexpr uint64_t kDescriptorLow = 0xFFFFFFFF;
__device__ __forceinline__ uint64_t descriptor_at(uint64_t descriptor, uint32_t bytes) {
  return (descriptor & ~kDescriptorLow) | (static_cast<uint32_t>(descriptor) + bytes / 16);
}

// A descriptor that ptxas does not work out anew in every iteration.
__device__ __forceinline__ uint64_t uniform_descriptor(uint64_t descriptor) {
  int32_t const low = uniform(static_cast<int32_t>(descriptor & kDescriptorLow));
  return (descriptor & ~kDescriptorLow) | static_cast<uint32_t>(low);
}

// Scores enter the sum doubled and weights halved: x + |x| is an addition, which issues at twice
// the rate of a maximum. Both are exact (short of subnormal weights), so the sum is that of relu(x)
// and the weights as given. NaN stays NaN, as in the reference.
__device__ __forceinline__ float twice_relu(float x) { return __fadd_rn(x, fabsf(x)); }
__device__ __forceinline__ float halve(float weight) { return 0.5f * weight; }

// Starts the copies of a warp that bring the weights of a row tile; 0 for rows past the last.
template <class Tile>
__device__ __forceinline__ void copy_weights(float const* weights, int64_t row_stride,
                                             int64_t first_row, int32_t rows,
                                             float (&shared)[Tile::kHeads * Tile::kQueries],
                                             int lane) {
#pragma unroll 1
  for (int column = lane; column < Tile::kHeads * Tile::kQueries; column += 32) {
    bool const exists = column / Tile::kHeads < rows;
    int64_t const row = first_row + (exists ? column / Tile::kHeads : 0);
    ptx::cp_async_4(ptx::shared_address(shared + column),
                    weights + row * row_stride + column % Tile::kHeads, exists);
  }
}

// The weights of a bank that belong to this lane's columns. `pair_at(query, head)` gives the halved
// weights of an even head and the next one.
template <class Tile, class PairAt>
__device__ __forceinline__ void load_weights(float (&weights)[Tile::kWeights], int lane,
                                             PairAt const& pair_at) {
  constexpr int kLaneHeads = Tile::kHeads / 4;
#pragma unroll
  for (int query = 0; query < Tile::kBankQueries; ++query) {
#pragma unroll
    for (int h = 0; h < kLaneHeads; h += 2) {
      float2 const pair = pair_at(query, 4 * h + 2 * (lane % 4));
      weights[query * kLaneHeads + h] = pair.x;
      weights[query * kLaneHeads + h + 1] = pair.y;
    }
  }
}

// Starts bank = keys . queries over the 128 dimensions, in four k steps of 32 bytes.
template <class Tile>
__device__ __forceinline__ void start_bank(float (&bank)[Tile::kAccumulators], uint64_t keys,
                                           uint64_t queries) {
  using Instruction = typename ScoreInstruction<Tile::kColumns>::Type;
  pin_registers(bank);
  ptx::wgmma_fence();
#pragma unroll
  for (int step = 0; step < kHeadDim / 32; ++step) {
    wgmma_ss<Instruction>(bank, descriptor_at(keys, 32 * step), descriptor_at(queries, 32 * step),
                          step != 0);
  }
  ptx::wgmma_commit();
}

// Sums a pair of queries (or the only one) over the heads; see the head of this file for what
// each lane gets. With one query, lanes 2 and 3 of a quad repeat lanes 0 and 1.
template <class Tile>
__device__ __forceinline__ float reduce_heads(float const (&bank)[Tile::kAccumulators],
                                              float const (&weights)[Tile::kWeights], int pair,
                                              int lane) {
  constexpr int kQueries = Tile::kBankQueries < 2 ? 1 : 2;
  constexpr int kLaneHeads = Tile::kHeads / 4;
  float half[kQueries];
#pragma unroll
  for (int i = 0; i < kQueries; ++i) {
    int const query = 2 * pair + i;
    float sum[2];
#pragma unroll
    for (int h = 0; h < kLaneHeads; ++h) {
      float const weight = weights[query * kLaneHeads + h];
#pragma unroll
      for (int key = 0; key < 2; ++key) {
        float const score = twice_relu(bank[query * 2 * kLaneHeads + h / 2 * 4 + key * 2 + h % 2]);
        sum[key] = h == 0 ? __fmul_rn(score, weight) : __fmaf_rn(score, weight, sum[key]);
      }
    }
    float const keep = lane & 1 ? sum[1] : sum[0];
    float const give = lane & 1 ? sum[0] : sum[1];
    half[i] = __fadd_rn(keep, __shfl_xor_sync(~0u, give, 1));
  }
  float const keep = lane & 2 ? half[kQueries - 1] : half[0];
  float const give = lane & 2 ? half[0] : half[kQueries - 1];
  return __fadd_rn(keep, __shfl_xor_sync(~0u, give, 2));
}

template <class Tile>
struct MathRegisters {
  float banks[Tile::kBanks][Tile::kAccumulators];
  float weights[Tile::kBanks][Tile::kWeights];
};

// Scores the warpgroup's 64 keys; `keys` and `queries` are descriptors. Calls `emit(query, logit)`
// for every pair of the tile's queries, with the even query of the pair, and `release()` once no
// wgmma reads the keys any more. No wgmma is in flight before or after: with one left in flight
// across the caller's loop, ptxas would serialise them all.
template <class Tile, class Release, class Emit>
__device__ __forceinline__ void score_keys(MathRegisters<Tile>& registers, uint64_t keys,
                                           uint64_t queries, float scale, int lane,
                                           Release const& release, Emit const& emit) {
#pragma unroll
  for (int b = 0; b < Tile::kBanks; ++b) {
    start_bank<Tile>(registers.banks[b], keys, descriptor_at(queries, b * Tile::kBankBytes));
  }
#pragma unroll
  for (int b = 0; b < Tile::kBanks; ++b) {
    if (b + 1 < Tile::kBanks) {
      ptx::wgmma_wait<1>();
    } else {
      ptx::wgmma_wait<0>();
      release();
    }
    pin_registers(registers.banks[b]);
#pragma unroll
    for (int pair = 0; pair < (Tile::kBankQueries + 1) / 2; ++pair) {
      float const sum = reduce_heads<Tile>(registers.banks[b], registers.weights[b], pair, lane);
      emit(b * Tile::kBankQueries + 2 * pair, __fmul_rn(sum, scale));
    }
    // Nothing to order, but ptxas moves nothing across it: without it half of this epilogue would
    // sink below the wait for the next bank.
    if (b + 1 < Tile::kBanks) __syncwarp();
  }
}

}  // namespace dsa_ops::indexer
