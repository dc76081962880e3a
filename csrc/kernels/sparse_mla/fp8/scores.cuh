// Warpgroup 0 of the FP8-cache kernel: scores and probabilities of 64 tokens at a time.
//
// S^T = K . Q^T: the tokens are the rows of the product, so that a warp's fragments of K come
// straight from the cached bytes and a token's scales are a few registers of the lanes that hold
// it.
#pragma once
#include "device/ptx/convert.cuh"
#include "device/ptx/shared.cuh"
#include "device/wgmma.cuh"
#include "kernels/sparse_mla/fp8/few_parts.cuh"
#include "kernels/sparse_mla/fp8/parts.cuh"
#include "kernels/sparse_mla/fp8/tile.cuh"
#include "kernels/sparse_mla/fp8/tokens.cuh"
#include "kernels/sparse_mla/fp8/traits.h"

namespace dsa_ops::sparse_mla::fp8 {

// True in every thread of the warpgroup if it is in any.
__device__ __forceinline__ bool any_of_warpgroup(bool value, int barrier) {
  uint32_t result;
  asm volatile(
      "{\n"
      ".reg .pred own, any;\n"
      "setp.ne.u32 own, %1, 0;\n"
      "bar.red.or.pred any, %2, 128, own;\n"
      "selp.u32 %0, 1, 0, any;\n"
      "}"
      : "=r"(result)
      : "r"(static_cast<uint32_t>(value)), "r"(barrier)
      : "memory");
  return result != 0;
}

// What a maximum may exceed its reference by before the reference follows, which costs all three
// warpgroups. f16 holds probabilities up to 2^15. Tokens of different magnitude make maxima grow by
// more than 2^8 in a third of the blocks, by more than 2^18 in few. Parts, which are f16
// themselves, leave less room.
template <bool kIsPart>
inline constexpr float kSlackLog2 = kIsPart ? kPartWeightLog2 : 15.f;

// kIsPart: of a row whose list is split.
template <class HeadTile, bool kIsPart>
struct ScoreWarpgroup {
  static constexpr int kStages = HeadTile::kStages;
  static constexpr int kColumns = HeadTile::kColumns;
  static constexpr int kTiles = HeadTile::kHeads / 8;
  using Scores = float[2 * kColumns];  // [4 * tile of 8 heads + 2 * (row + 8) + head]

  SharedStorage<HeadTile>& shared;
  int const warp;
  bool started;  // a token of the tile has been seen
  RingPlace<kStages> place;

  __device__ ScoreWarpgroup(SharedStorage<HeadTile>& storage, int thread)
      : shared(storage), warp(__shfl_sync(0xFFFFFFFFu, thread >> 5, 0)) {}

  static __device__ __forceinline__ int lane_index() { return thread_index() & 31; }

  // 16 bytes of each of two rows: a k step takes a word of both.
  static __device__ __forceinline__ void convert(uint32_t (&fragments)[4][4], uint4 const& upper,
                                                 uint4 const& lower) {
    uint32_t const a[4] = {upper.x, upper.y, upper.z, upper.w};
    uint32_t const b[4] = {lower.x, lower.y, lower.z, lower.w};
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      ptx::unpack_e4m3(a[step], fragments[step][0], fragments[step][2]);
      ptx::unpack_e4m3(b[step], fragments[step][1], fragments[step][3]);
    }
  }

  // scores (+)= the product over one panel of 64 dims.
  template <class Mma>
  static __device__ __forceinline__ void issue(Scores& scores, uint32_t const (&fragments)[4][4],
                                               uint64_t query, bool accumulate) {
    ptx::wgmma_fence();
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      wgmma_rs<Mma>(scores, fragments[step], query + step * 2, accumulate || step != 0);
    }
    ptx::wgmma_commit();
  }

  static __device__ __forceinline__ void scale_rows(Scores& scores, float upper, float lower) {
    pin_registers(scores);
#pragma unroll
    for (int i = 0; i < 2 * kColumns; ++i) scores[i] *= (i & 2) ? lower : upper;
    pin_registers(scores);
  }

  // Few heads leave registers for a sum of each group of dims.
  static constexpr bool kOwnSums = HeadTile::kHeads <= 16;
  static constexpr uint64_t kPanelStep = HeadTile::kPanelBytes >> 4;
  static constexpr uint32_t kLower = 8 * kTokenPitch;

  // Where a lane's bytes of a block are.
  struct TokenRows {
    int row;             // of S^T; and row + 8
    uint32_t base, own;  // the token of `row`, and the lane's 16 bytes of its first panel

    __device__ __forceinline__ TokenRows(uint32_t stage, int warp, int lane)
        : row(warp * 16 + (lane >> 2)),
          base(stage + token_of_row(row) * kTokenPitch),
          own(base + (lane & 3) * 16) {}
  };

  __device__ __forceinline__ void multiply(int stage, Scores& scores, TokenScales (&token)[2]) {
    int const lane = lane_index();
    TokenRows const rows(ptx::shared_address(shared.token[stage]), warp, lane);
    uint64_t const query = k_major_descriptor(ptx::shared_address(shared.query));
    if constexpr (kOwnSums) {
      multiply_groups(rows, query, stage, lane, scores, token);
    } else {
      multiply_chains(rows, query, stage, lane, scores, token);
    }
  }

  // The groups' panels by turns: no product waits for a sum to be scaled.
  __device__ __forceinline__ void multiply_groups(TokenRows const& rows, uint64_t query, int stage,
                                                  int lane, Scores& scores,
                                                  TokenScales (&token)[2]) {
    Scores group[kScaleGroups];
    uint32_t rope[4][4], fragments[2][4][4];
    load_rope(rope, rows.own + kRopeOffset, kLower);
    uint4 upper = ptx::load_shared_16(rows.own);
    uint4 lower = ptx::load_shared_16(rows.own + kLower);
    issue<typename HeadTile::RopeMma>(scores, rope, query + 8 * kPanelStep, false);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      auto const panel = [](int at) { return (at & 3) * 2 + (at >> 2); };
      convert(fragments[i & 1], upper, lower);
      if (i < 7) {
        upper = ptx::load_shared_16(rows.own + panel(i + 1) * 64);
        lower = ptx::load_shared_16(rows.own + kLower + panel(i + 1) * 64);
      }
      issue<typename HeadTile::LatentMma>(group[i & 3], fragments[i & 1],
                                          query + panel(i) * kPanelStep, i >= 4);
      if (i == 0) read_scales(stage, rows.base, rows.row, lane & 3, token);
      if (i < 7) ptx::wgmma_wait<1>();
    }
    release(&shared.token_empty[stage]);
    ptx::wgmma_wait<0>();
    pin_registers(scores);
    for (auto& sums : group) pin_registers(sums);
#pragma unroll
    for (int i = 0; i < 2 * kColumns; ++i) {
      TokenScales const& scales = token[i >> 1 & 1];
#pragma unroll
      for (int g = 0; g < 2; ++g) {
        scores[i] = fmaf(group[g][i], scales.ratio[g], scores[i]);
        scores[i] = fmaf(group[g + 2][i], scales.scale[g], scores[i]);
      }
    }
  }

  // Two chains of groups, (0, 2, RoPE) and (1, 3): while the products of one run, the other is
  // brought from the scale of its last group to that of its next.
  __device__ __forceinline__ void multiply_chains(TokenRows const& rows, uint64_t query, int stage,
                                                  int lane, Scores& scores,
                                                  TokenScales (&token)[2]) {
    using Mma = typename HeadTile::LatentMma;
    Scores second;
    uint32_t fragments[2][4][4];
    uint4 upper = ptx::load_shared_16(rows.own);
    uint4 lower = ptx::load_shared_16(rows.own + kLower);
#pragma unroll
    for (int panel = 0; panel < 8; ++panel) {
      convert(fragments[panel & 1], upper, lower);
      if (panel < 7) {
        upper = ptx::load_shared_16(rows.own + (panel + 1) * 64);
        lower = ptx::load_shared_16(rows.own + kLower + (panel + 1) * 64);
      }
      if ((panel & 2) == 0) {
        issue<Mma>(scores, fragments[panel & 1], query + panel * kPanelStep, panel != 0);
      } else {
        issue<Mma>(second, fragments[panel & 1], query + panel * kPanelStep, panel != 2);
      }
      if (panel == 0) read_scales(stage, rows.base, rows.row, lane & 3, token);
      ptx::wgmma_wait<1>();
      if (panel == 2) scale_rows(scores, token[0].ratio[0], token[1].ratio[0]);
      if (panel == 4) scale_rows(second, token[0].ratio[1], token[1].ratio[1]);
      if (panel == 6) scale_rows(scores, token[0].scale[0], token[1].scale[0]);
    }
    load_rope(fragments[0], rows.own + kRopeOffset, kLower);
    issue<typename HeadTile::RopeMma>(scores, fragments[0], query + 8 * kPanelStep, true);
    end_chains(stage, scores, second, token);
  }

  // Once the products of both chains are issued.
  __device__ __forceinline__ void end_chains(int stage, Scores& scores, Scores& second,
                                             TokenScales const (&token)[2]) {
    release(&shared.token_empty[stage]);
    ptx::wgmma_wait<0>();
    pin_registers(scores);
    pin_registers(second);
#pragma unroll
    for (int i = 0; i < 2 * kColumns; ++i) {
      scores[i] = fmaf(second[i], token[i >> 1 & 1].scale[1], scores[i]);
    }
  }

  static __device__ __forceinline__ void load_rope(uint32_t (&rope)[4][4], uint32_t address,
                                                   uint32_t lower) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      rope_half(rope, half, ptx::load_shared_16(address + half * 64),
                ptx::load_shared_16(address + lower + half * 64));
    }
  }

  // From 16 bytes of each of two rows.
  static __device__ __forceinline__ void rope_half(uint32_t (&rope)[4][4], int half,
                                                   uint4 const& upper, uint4 const& lower) {
    rope[2 * half][0] = upper.x, rope[2 * half][2] = upper.y;
    rope[2 * half + 1][0] = upper.z, rope[2 * half + 1][2] = upper.w;
    rope[2 * half][1] = lower.x, rope[2 * half][3] = lower.y;
    rope[2 * half + 1][1] = lower.z, rope[2 * half + 1][3] = lower.w;
  }

  __device__ __forceinline__ void read_scales(int stage, uint32_t base, int row, int group,
                                              TokenScales (&token)[2]) {
    uint32_t const exists = shared.exists[stage][warp];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      uint4 const bits = ptx::load_shared_16(base + half * 8 * kTokenPitch + kScaleOffset);
      int const position = token_of_row(row + half * 8) & 15;
      shared.put_value_scale(
          stage, group, value_scale_position(row + half * 8),
          token[half].template read<kOwnSums>(bits, exists >> position & 1, group));
    }
    release(&shared.value_scale_full[stage]);
  }

  // The head of a thread's column 2 * tile; the next one is that of 2 * tile + 1.
  static __device__ __forceinline__ int head_of(int tile, int lane) {
    return tile * 8 + (lane & 3) * 2;
  }

  // Scores in place to exponents: log2 of the weights in the output before normalisation.
  __device__ __forceinline__ void to_exponents(Scores& scores, TokenScales const (&token)[2]) {
    int const lane = lane_index();
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      float4 const column = *reinterpret_cast<float4 const*>(&shared.column[head_of(tile, lane)]);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float& score = scores[tile * 4 + i];
        score = (i & 1) ? fmaf(score, column.z, column.w) : fmaf(score, column.x, column.y);
        score += token[i >> 1].exponent;
      }
    }
  }

  // Probabilities of two heads and two tokens, to `packed` in f16.
  static __device__ __forceinline__ float4 exponentiate_tile(Scores const& exponents, int tile,
                                                             uint32_t (&packed)[kColumns]) {
    float p[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) p[i] = ptx::exp2_flushed(exponents[tile * 4 + i]);
    packed[tile * 2] = ptx::pack_f16(p[0], p[1]);
    packed[tile * 2 + 1] = ptx::pack_f16(p[2], p[3]);
    return make_float4(p[0], p[1], p[2], p[3]);
  }

  // Adds them to the sums of the two heads.
  static __device__ __forceinline__ float2 add_probabilities(float2 sum, float4 p,
                                                             TokenScales const (&token)[2]) {
    sum.x = fmaf(p.x, token[0].inverse, sum.x);
    sum.y = fmaf(p.y, token[0].inverse, sum.y);
    sum.x = fmaf(p.z, token[1].inverse, sum.x);
    sum.y = fmaf(p.w, token[1].inverse, sum.y);
    return sum;
  }

  // Probabilities of a block in f16; their sums go to `sum`.
  __device__ __forceinline__ void exponentiate(Scores const& exponents,
                                               TokenScales const (&token)[2],
                                               uint32_t (&packed)[kColumns]) {
    int const thread = thread_index();
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      float2& sums = shared.sum[tile][thread];
      float2 const sum = sums;
      sums = add_probabilities(sum, exponentiate_tile(exponents, tile, packed), token);
    }
  }

  static __device__ __forceinline__ float largest(Scores const& exponents) {
    float maximum = exponents[0];
#pragma unroll
    for (int i = 1; i < 2 * kColumns; ++i) maximum = fmaxf(maximum, exponents[i]);
    return maximum;
  }

  // Not 0 if a token of a stage exists.
  __device__ __forceinline__ uint32_t any_token(int stage) const {
    auto const words = *reinterpret_cast<uint2 const*>(shared.exists[stage]);
    return words.x | words.y;
  }

  // Reduces each column over the warp's rows. A lane ends up with kColumns / 8 of them (or one):
  // those from column (lane >> 2) * kColumns / 8 on.
  template <int kCount = kColumns, int kDistance = 16, class Operation>
  static __device__ __forceinline__ void reduce_columns(float (&columns)[kColumns], int lane,
                                                        Operation operation) {
    constexpr int kHalf = kCount > 1 ? kCount / 2 : 1;
    bool const upper = lane & kDistance;
#pragma unroll
    for (int i = 0; i < kHalf; ++i) {
      float const other = kCount > 1 ? columns[i + kHalf % kCount] : columns[i];
      float const sent = upper ? columns[i] : other;
      float const kept = upper ? other : columns[i];
      columns[i] = operation(kept, __shfl_xor_sync(0xFFFFFFFFu, sent, kDistance));
    }
    if constexpr (kDistance > 4) reduce_columns<kHalf, kDistance / 2>(columns, lane, operation);
  }

  // Leaves the reduced columns of the warp in shared memory, by head.
  static __device__ __forceinline__ void store_columns(float (&result)[HeadTile::kHeads],
                                                       float const (&columns)[kColumns], int lane) {
    int const first = (lane >> 2) * kColumns / 8;
    float* const target = &result[head_of(first >> 1, lane) + (first & 1)];
    if constexpr (kColumns == 16) {
      *reinterpret_cast<float2*>(target) = make_float2(columns[0], columns[1]);
    } else {
      *target = columns[0];
    }
  }

  static __device__ __forceinline__ float sum_of_warps(float const (&of_warp)[4][HeadTile::kHeads],
                                                       int head) {
    return (of_warp[0][head] + of_warp[1][head]) + (of_warp[2][head] + of_warp[3][head]);
  }

  // What a warpgroup leaves by head as it raises references, and how it does.
  struct Raise {
    float (&warp_maximum)[4][HeadTile::kHeads];
    float (&step)[HeadTile::kHeads];    // what a reference is raised by
    float (&factor)[HeadTile::kHeads];  // of what is relative to it
    int barrier;
    float headroom_log2;  // see plan.h
  };

  // Raises the references of the heads whose maximum has outgrown them, and takes the exponents
  // along; `rescale(tile, factors of its two heads)` what a thread keeps relative to them. By
  // `thread` of the warpgroup; returns what the reference of the head of this number is raised by.
  // `seen`: a token of the tile has been seen before.
  template <class Rescale>
  __device__ __forceinline__ float raise_references(Scores& exponents, int thread, bool seen,
                                                    Raise const& to, Rescale const& rescale) {
    int const lane = thread & 31;
    float maximum[kColumns];
#pragma unroll
    for (int column = 0; column < kColumns; ++column) {
      int const i = (column >> 1) * 4 + (column & 1);
      maximum[column] = fmaxf(exponents[i], exponents[i + 2]);
    }
    reduce_columns(maximum, lane, [](float a, float b) { return fmaxf(a, b); });
    store_columns(to.warp_maximum[warp], maximum, lane);
    ptx::named_barrier_sync(to.barrier, 128);
    float step = 0.f;
    if (thread < HeadTile::kHeads) {
      auto const& result = to.warp_maximum;
      float const largest = fmaxf(fmaxf(result[0][thread], result[1][thread]),
                                  fmaxf(result[2][thread], result[3][thread]));
      if (largest > -INFINITY && (!seen || largest > kSlackLog2<kIsPart>)) {
        step = largest + to.headroom_log2;
      }
      to.step[thread] = step;
      shared.column[thread].y -= step;
      to.factor[thread] = seen ? ptx::exp2_flushed(-step) : 1.f;
    }
    ptx::named_barrier_sync(to.barrier, 128);
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      int const head = head_of(tile, lane);
      float2 const own = *reinterpret_cast<float2 const*>(&to.step[head]);
      rescale(tile, *reinterpret_cast<float2 const*>(&to.factor[head]));
#pragma unroll
      for (int i = 0; i < 4; ++i) exponents[tile * 4 + i] -= (i & 1) ? own.y : own.x;
    }
    return step;
  }

  __device__ __forceinline__ void store_probabilities(int buffer,
                                                      uint32_t const (&packed)[kColumns]) {
    int const lane = lane_index();
    uint32_t const panel = ptx::shared_address(shared.probability[buffer]);
    int const chunk = 2 * warp + ((lane >> 3) & 1);
    if constexpr (kTiles == 1) {
      ptx::store_matrices_transposed(panel + swizzled_chunk(lane & 7, chunk), packed[0], packed[1]);
    } else {
#pragma unroll
      for (int tile = 0; tile < kTiles; tile += 2) {
        int const head = (tile + (lane >> 4)) * 8 + (lane & 7);
        ptx::store_matrices_transposed(panel + swizzled_chunk(head, chunk), packed[tile * 2],
                                       packed[tile * 2 + 1], packed[tile * 2 + 2],
                                       packed[tile * 2 + 3]);
      }
    }
  }

  __device__ __forceinline__ void publish(KernelArgs const& args, Scores& scores,
                                          TokenScales const (&token)[2], int stage, int buffer,
                                          uint32_t empty_parity) {
    to_exponents(scores, token);
    float const maximum = largest(scores);
    ptx::mbarrier_wait(&shared.probability_empty[buffer], empty_parity);
    bool const raises = any_of_warpgroup(!started || maximum > kSlackLog2<kIsPart>, kScoreVote);
    if (raises) {
      int const thread = thread_index();
      Raise const to{shared.warp_result, shared.step, shared.rescale[buffer], kScoreVote,
                     args.headroom_log2};
      raise_references(scores, thread, started, to, [&](int tile, float2 factor) {
        float2& sums = shared.sum[tile][thread];
        sums = make_float2(sums.x * factor.x, sums.y * factor.y);
      });
    }
    uint32_t packed[kColumns];
    exponentiate(scores, token, packed);
    if (thread_index() == 0) shared.rescales[buffer] = raises && started;
    if (!started) started = any_token(stage) != 0;
    store_probabilities(buffer, packed);
    ptx::fence_proxy_async();
    release(&shared.probability_full[buffer]);
  }

  // One tile.
  __device__ void run(KernelArgs const& args, int num_blocks) {
    started = false;
#pragma unroll
    for (auto& sums : shared.sum) sums[thread_index()] = make_float2(0.f, 0.f);
#pragma unroll 1
    for (int block = 0; block < num_blocks; ++block) {
      ptx::mbarrier_wait(&shared.token_full[place.stage], place.stage_parity);
      Scores scores;
      TokenScales token[2];
      multiply(place.stage, scores, token);
      release(&shared.scores_done[place.buffer()]);
      publish(args, scores, token, place.stage, place.buffer(), place.buffer_parity() ^ 1);
      place.advance();
    }
  }

  // `own(tile)` are a thread's sums of two heads; those of each warp are in warp_result then.
  template <class OwnSums>
  __device__ __forceinline__ void store_sums(int thread, OwnSums const& own) {
    float sums[kColumns];
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      float2 const two = own(tile);
      sums[tile * 2] = two.x;
      sums[tile * 2 + 1] = two.y;
    }
    reduce_columns(sums, thread & 31, [](float a, float b) { return a + b; });
    store_columns(shared.warp_result[warp], sums, thread & 31);
    ptx::named_barrier_sync(kScoreVote, 128);
  }

  // Log-sum-exp of the tile's heads, and the factors that normalise the output.
  template <Split kSplit>
  __device__ void finish(KernelArgs const& args, Tile const& tile) {
    int const thread = thread_index();
    store_sums(thread, [&](int tile) { return shared.sum[tile][thread]; });
    if (thread >= HeadTile::kHeads) return;
    float const total = sum_of_warps(shared.warp_result, thread);
    float const reference = -shared.column[thread].y;
    float2 const sum = make_float2(total == 0.f ? -INFINITY : reference, total);
    if constexpr (is_few(kSplit)) {
      FewParts<HeadTile, kSplit == Split::kTwo ? 2 : 3>::weigh(shared, args, tile, thread, sum);
      return;
    } else if constexpr (kSplit != Split::kNone) {
      hand_over_sum<kSplit == Split::kCluster>(shared, args, tile.split, thread, sum);
      return;
    }
    bool const empty = total == 0.f;
    float const lse = empty ? -INFINITY : (log2f(total) + reference) * kLn2;
    float factor = empty ? 0.f : 1.f / total;
    int const head = tile.first_head + thread;
    if (thread < tile.heads) {
      if (args.attn_sink && !empty) factor /= 1.f + expf(args.attn_sink[head] - lse);
      args.lse[tile.row * args.num_heads + head] = lse;
    }
    shared.output_factor[thread] = factor;
  }
};

}  // namespace dsa_ops::sparse_mla::fp8
