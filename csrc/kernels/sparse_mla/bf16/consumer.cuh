// A consumer warpgroup of the bf16 kernel: scores of one block of every pair, half of the output.
#pragma once
#include <cstddef>

#include "device/ptx/convert.cuh"
#include "device/ptx/shared.cuh"
#include "device/wgmma.cuh"
#include "kernels/sparse_mla/bf16/gather.cuh"

namespace dsa_ops::sparse_mla::bf16 {

// Descriptor words between two panels, two stages, and between the 16 columns (scores, A operand)
// or 16 rows (values) of two steps.
inline constexpr uint64_t kPanelStep = kPanelBytes >> 4;
inline constexpr uint64_t kStageStep = sizeof(SharedStorage::kv[0]) >> 4;
inline constexpr uint64_t kQueryStep =  // from the query to stage 0
    (offsetof(SharedStorage, kv) - offsetof(SharedStorage, query)) >> 4;
inline constexpr uint64_t kColumnStep = 2;
inline constexpr uint64_t kTokenStep = 16 * 128 >> 4;

// The reference follows the maximum only when that has grown by more than this, and hardly a block
// then takes the output accumulators along: bf16 holds probabilities as large as fp32 does, and
// rounds them as well as those up to 1.
inline constexpr float kReferenceSlackLog2 = 24.f;

// Of the four lanes that share a row.
__device__ __forceinline__ float row_maximum(float value) {
  value = fmaxf(value, __shfl_xor_sync(0xFFFFFFFFu, value, 1));
  return fmaxf(value, __shfl_xor_sync(0xFFFFFFFFu, value, 2));
}

template <class Source, int kGroup>
struct Consumer {
  static constexpr int kPanels = Source::kHeadDim / 64;
  static constexpr Half kFirstHalf = first_half(kGroup);
  static constexpr Half kLastHalf = kFirstHalf == kLeft ? kRight : kLeft;
  // The order of products that leaves fewest gaps: even scores, the first of them issued with the
  // pair before, odd scores, even values, odd values. Not where few pairs wait for their tokens.
  static constexpr bool kOrdered = !Source::kPaged;
  static constexpr bool kAhead = kOrdered && kGroup == 0;
  using Tile = bf16::Tile<Source>;

  SharedStorage& shared;
  KernelArgs const& args;
  int const thread;
  int const row;     // this thread's accumulators belong to rows row and row + 8 of the tile
  int const column;  // and to columns column and column + 1 of every group of 8
  float const scale;
  int member;  // of the pack: the row of the input that both rows belong to

  float reference[2], sum[2];
  float maximum[2];  // of this thread's columns
  uint32_t valid[2];
  bool masks;
  float scores[32];
  uint32_t probability[4][4];
  float output[128];

  __device__ Consumer(SharedStorage& storage, KernelArgs const& kernel_args, int thread_index)
      : shared(storage),
        args(kernel_args),
        thread(thread_index),
        row((thread_index >> 5) * 16 + ((thread_index & 31) >> 2)),
        column((thread_index & 3) * 2),
        // Not zero: a missing token's score stays -inf.
        scale(kernel_args.score_scale_log2 == 0.f ? 1e-37f : fabsf(kernel_args.score_scale_log2)) {}

  __device__ __forceinline__ void begin_tile(Tile const& tile) {
    member = min(TileRow(tile, row).member, tile.rows - 1);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      reference[half] = maximum[half] = -INFINITY;
      sum[half] = 0.f;
    }
#pragma unroll
    for (int i = 0; i < 128; ++i) output[i] = 0.f;
  }

  __device__ __forceinline__ void release(uint64_t* barrier) {
    __syncwarp();
    if ((thread & 31) == 0) ptx::mbarrier_arrive(barrier);
  }

  // Issues the score products of a quarter of the dims once it is full, or of what lies there.
  template <int kQuarter>
  __device__ __forceinline__ void issue_scores(uint32_t phase, bool exists = true) {
    using Panels = QuarterPanels<kQuarter, kPanels>;
    // Both operands from one address: ptxas forms descriptors of two in five instructions, not two.
    uint64_t const k = k_major_descriptor(ptx::shared_address(shared.kv[kGroup]));
    uint64_t const q = k - kQueryStep - kGroup * kStageStep;
    constexpr bool kBegins = kQuarter == 2 * kFirstHalf;
    if (exists) ptx::mbarrier_wait(&shared.kv_full[kGroup][kQuarter], phase);
    // The even block's scores come first: its softmax lies under the odd block's scores.
    if (kGroup == 1 && kBegins) {
      ptx::named_barrier_sync(kEvenScoresIssued, kConsumerThreads);
    }
    if (kBegins) pin_registers(scores);
    ptx::wgmma_fence();
#pragma unroll
    for (int panel = Panels::kFirst; panel < Panels::kLast; ++panel) {
#pragma unroll
      for (int step = 0; step < 4; ++step) {
        uint64_t const offset = panel * kPanelStep + step * kColumnStep;
        wgmma_ss<ScoreMma>(scores, q + offset, k + offset,
                           !kBegins || panel != Panels::kFirst || step != 0);
      }
    }
  }

  // All scores of a block but for those that have been issued ahead.
  __device__ __forceinline__ void multiply_scores(uint32_t phase, uint32_t query_phase,
                                                  bool first) {
    if constexpr (!kAhead) {
      if (first) ptx::mbarrier_wait(&shared.query_full[kFirstHalf], query_phase);
      issue_scores<2 * kFirstHalf>(phase);
    }
    issue_scores<2 * kFirstHalf + 1>(phase);
    if (first) ptx::mbarrier_wait(&shared.query_full[kLastHalf], query_phase);
    issue_scores<2 * kLastHalf>(phase);
    issue_scores<2 * kLastHalf + 1>(phase);
    ptx::wgmma_commit();
    constexpr NamedBarrier kIssued = kGroup == 0 ? kEvenScoresIssued : kOddScoresIssued;
    if (kGroup == 0 || kOrdered) ptx::named_barrier_arrive(kIssued, kConsumerThreads);
    read_valid();
  }

  // Which tokens of the block exist for this thread's rows; read while the scores are multiplied.
  __device__ __forceinline__ void read_valid() {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      valid[i] = shared.valid[kGroup][member][(column >> 2) + 2 * i] >> (column & 2);
    }
    masks = __any_sync(0xFFFFFFFFu,
                       (valid[0] & valid[1] & 0x3333) != 0x3333 || args.score_scale_log2 < 0.f);
  }

  // Scores of tokens that do not exist become -inf; a negative scale changes the scores' sign.
  __device__ __forceinline__ void mask_scores() {
    bool const negative = args.score_scale_log2 < 0.f;
#pragma unroll
    for (int i = 0; i < 32; ++i) {
      int const group = i >> 2;
      bool const exists = valid[group & 1] >> (4 * (group >> 1) + (i & 1)) & 1;
      scores[i] = exists ? (negative ? -scores[i] : scores[i]) : -INFINITY;
    }
  }

  // Of this thread's columns, in four chains that do not wait for each other.
  __device__ __forceinline__ void find_maxima(float (&top)[2]) const {
    float chains[4] = {scores[0], scores[1], scores[2], scores[3]};
#pragma unroll
    for (int i = 4; i < 32; ++i) chains[i & 3] = fmaxf(chains[i & 3], scores[i]);
    top[0] = fmaxf(chains[0], chains[1]) * scale;
    top[1] = fmaxf(chains[2], chains[3]) * scale;
  }

  // Moves the references of rows whose maximum has outgrown them; what was accumulated before must
  // be multiplied by `factor`.
  __device__ __forceinline__ void move_references(float const (&top)[2], float (&factor)[2]) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float const row_top = row_maximum(top[half]);
      bool const grows = row_top > reference[half] + kReferenceSlackLog2;
      factor[half] = grows ? ptx::exp2_flushed(reference[half] - row_top) : 1.f;
      if (grows) reference[half] = row_top;
      sum[half] *= factor[half];
    }
  }

  template <int kFirst, int kLast>
  __device__ __forceinline__ void exponentiate(float (&weights)[32]) const {
    float shift[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      shift[half] = reference[half] == -INFINITY ? 0.f : reference[half];
    }
#pragma unroll
    for (int i = kFirst; i < kLast; ++i) {
      weights[i] = ptx::exp2_flushed(fmaf(scores[i], scale, -shift[(i >> 1) & 1]));
    }
  }

  // Turns scores into probabilities; true if what was accumulated before must be multiplied by
  // `factor`. Most blocks move no reference: the first weights are under way before the maxima
  // are known, and the lanes of a row need not agree on its maximum.
  __device__ __forceinline__ bool softmax(float (&factor)[2]) {
    constexpr int kEarly = 8;
    if (masks) mask_scores();
    float weights[32], top[2];
    exponentiate<0, kEarly>(weights);
    find_maxima(top);
    bool outgrown = false;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      outgrown = outgrown || top[half] > reference[half] + kReferenceSlackLog2;
      maximum[half] = fmaxf(maximum[half], top[half]);
    }
    bool const moves = __any_sync(0xFFFFFFFFu, outgrown);
    if (moves) {
      move_references(top, factor);
      exponentiate<0, kEarly>(weights);
    }
    exponentiate<kEarly, 32>(weights);
#pragma unroll
    for (int i = 0; i < 32; ++i) sum[(i >> 1) & 1] += weights[i];
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      probability[i >> 2][i & 3] = ptx::pack_bf16(weights[2 * i], weights[2 * i + 1]);
    }
    return moves;
  }

  // Where this lane's row of the matrices of 16 tokens lies; of step s, xor s << 5.
  __device__ __forceinline__ uint32_t fragment_address() const {
    int const lane = thread & 31;
    int const fragment_row = (thread >> 5) * 16 + (lane & 15);
    return ptx::shared_address(shared.probability) + fragment_row * 128 +
           (((lane >> 4) ^ (lane & 7)) << 4);
  }

  // Probabilities and reference for the other warpgroup.
  __device__ __forceinline__ void publish() {
    uint32_t const target = fragment_address();
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      ptx::store_matrices(target ^ (step << 5), probability[step]);
    }
    if (column == 0) {
      shared.reference[kGroup][row] = reference[0];
      shared.reference[kGroup][row + 8] = reference[1];
    }
    __syncwarp();
    ptx::named_barrier_arrive((kGroup == 0 ? kEvenReady : kOddReady) + (thread >> 5), 64);
  }

  __device__ __forceinline__ void scale_output(float const (&factor)[2]) {
#pragma unroll
    for (int i = 0; i < 128; ++i) output[i] *= factor[(i >> 1) & 1];
  }

  // Waits for the other warpgroup's probabilities and takes over their reference.
  __device__ __forceinline__ void receive(uint32_t (&other)[4][4]) {
    ptx::named_barrier_sync((kGroup == 0 ? kOddReady : kEvenReady) + (thread >> 5), 64);
    uint32_t const source = fragment_address();
#pragma unroll
    for (int step = 0; step < 4; ++step) ptx::load_matrices(source ^ (step << 5), other[step]);
    float factor[2];
    bool grows = false;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float const now = shared.reference[kGroup ^ 1][row + 8 * half];
      bool const grew = now != reference[half];
      factor[half] = grew ? ptx::exp2_flushed(reference[half] - now) : 1.f;
      reference[half] = now;
      grows |= grew;
    }
    if (__any_sync(0xFFFFFFFFu, grows)) {
      ptx::wgmma_wait<0>();  // registers may change only where no product is in flight
      pin_registers(scores);
      sum[0] *= factor[0];
      sum[1] *= factor[1];
      scale_output(factor);
    }
  }

  // output += probabilities . values of a stage.
  __device__ __forceinline__ void issue_values(uint32_t const (&fragments)[4][4], int stage) {
    uint64_t const value = mn_major_descriptor(
        ptx::shared_address(shared.kv[stage][kGroup * kHalfPanels]), kPanelBytes);
    pin_registers(output);
    ptx::wgmma_fence();
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      wgmma_rs<ValueMma>(output, fragments[step], value + step * kTokenStep, true);
    }
    ptx::wgmma_commit();
  }

  // Lets go of this warpgroup's half of the stage; `kLater` groups of products may be under way.
  template <int kLater = 0>
  __device__ __forceinline__ void finish_values(uint32_t (&fragments)[4][4], int stage) {
    ptx::wgmma_wait<kLater>();
    pin_registers(output);
#pragma unroll
    for (int step = 0; step < 4; ++step) pin_registers(fragments[step]);
    release(&shared.kv_empty[stage][kGroup]);
  }

  // Whether a tile at or after `index` has tokens.
  __device__ __forceinline__ bool works_from(uint32_t index, uint32_t tiles) const {
    for (index = next_tile<Source>(args, index, tiles); index < tiles;
         index = next_tile<Source>(args, index + gridDim.x, tiles)) {
      if (Tile(args, index).num_pairs > 0) return true;
    }
    return false;
  }

  // Right behind the last values of the pair before, or tile before: no more of them, since what
  // frees the odd block waits for their issue. Of no use where no pair follows, but ptxas would
  // serialise products that a branch leaves out.
  __device__ __forceinline__ void issue_first_scores(uint32_t phase, uint32_t query_phase,
                                                     bool first, bool exists) {
    if (first && exists) ptx::mbarrier_wait(&shared.query_full[kLeft], query_phase);
    issue_scores<0>(phase, exists);
    ptx::wgmma_commit();
  }

  __device__ __forceinline__ void pair_of_even(uint32_t phase, uint32_t query_phase, bool first,
                                               bool last, uint32_t next_index, uint32_t tiles) {
    multiply_scores(phase, query_phase, first);
    bool const follows = kAhead && (!last || works_from(next_index, tiles));
    ptx::wgmma_wait<0>();
    pin_registers(scores);
    if (last) release(&shared.query_empty);
    float factor[2];
    bool const grows = softmax(factor);
    publish();
    if (grows) scale_output(factor);
    // Behind the odd block's scores, so that its softmax lies under both warpgroups' values.
    if constexpr (kOrdered) ptx::named_barrier_sync(kOddScoresIssued, kConsumerThreads);
    issue_values(probability, 0);
    finish_values(probability, 0);
    uint32_t other[4][4];
    receive(other);
    issue_values(other, 1);
    if constexpr (kAhead) issue_first_scores(phase ^ 1, query_phase ^ 1, last, follows);
    finish_values<kAhead>(other, 1);
  }

  __device__ __forceinline__ void pair_of_odd(uint32_t phase, uint32_t query_phase, bool first,
                                              bool last) {
    multiply_scores(phase, query_phase, first);
    uint32_t other[4][4];
    receive(other);
    issue_values(other, 0);
    ptx::wgmma_wait<1>();
    pin_registers(scores);
    if (last) release(&shared.query_empty);
    float factor[2];
    bool const grows = softmax(factor);
    publish();
    finish_values(other, 0);
    if (grows) scale_output(factor);
    issue_values(probability, 1);
    finish_values(probability, 1);
  }

  // Joins the row sums of both warpgroups; writes log-sum-exp and maximum.
  __device__ __forceinline__ void finish_rows(Tile const& tile, uint32_t parity,
                                              float (&factor)[2]) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      sum[half] += __shfl_xor_sync(0xFFFFFFFFu, sum[half], 1);
      sum[half] += __shfl_xor_sync(0xFFFFFFFFu, sum[half], 2);
      maximum[half] = row_maximum(maximum[half]);
      if (column == 0) {
        shared.sum[parity][kGroup][row + 8 * half] = sum[half];
        shared.maximum[parity][kGroup][row + 8 * half] = maximum[half];
      }
    }
    ptx::named_barrier_sync(kTotalsReady, kConsumerThreads);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      int const at = row + 8 * half;
      TileRow const to(tile, at);
      // Even block's share first in both warpgroups.
      float const total = shared.sum[parity][0][at] + shared.sum[parity][1][at];
      float const top = fmaxf(shared.maximum[parity][0][at], shared.maximum[parity][1][at]);
      bool const empty = total == 0.f;
      float const lse_log2 = empty ? -INFINITY : reference[half] + log2f(total);
      factor[half] = empty ? 0.f : 1.f / total;
      if (!to.exists) continue;
      bool const writes = kGroup == 0 && column == 0;
      if (Source::kPaged && args.num_splits > 1) {
        if (writes) args.partial_lse[tile.part(args, to)] = lse_log2;
        continue;
      }
      if (args.attn_sink && !empty) {
        factor[half] /= 1.f + expf(args.attn_sink[to.head] - lse_log2 * kLn2);
      }
      if (writes) {
        int64_t const position = (tile.row + to.member) * args.num_heads + to.head;
        args.lse[position] = lse_log2 * kLn2;
        if (args.max_logits) args.max_logits[position] = top * kLn2;
      }
    }
  }

  // fp32, to be joined with the other parts.
  __device__ __forceinline__ void store_part(float* target, int half, float factor) const {
#pragma unroll
    for (int i = 0; i < 32; ++i) {
      float const* pair = &output[i * 4 + half * 2];
      *reinterpret_cast<float2*>(target + i * 8 + column) =
          make_float2(pair[0] * factor, pair[1] * factor);
    }
  }

  // Four lanes hold neighbouring pairs of columns of a row: they trade them so that each has 16
  // bytes of it.
  __device__ __forceinline__ void transpose(uint32_t (&words)[4]) const {
    bool const first = thread & 1, second = thread & 2;
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
      uint32_t const got = __shfl_xor_sync(0xFFFFFFFFu, first ? words[i] : words[i + 1], 1);
      (first ? words[i] : words[i + 1]) = got;
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      uint32_t const got = __shfl_xor_sync(0xFFFFFFFFu, second ? words[i] : words[i + 2], 2);
      (second ? words[i] : words[i + 2]) = got;
    }
  }

  __device__ __forceinline__ void store_row(uint16_t* target, int half, float factor,
                                            bool exists) const {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      uint32_t words[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        float const* value = &output[(i * 4 + j) * 4 + half * 2];
        words[j] = ptx::pack_bf16(value[0] * factor, value[1] * factor);
      }
      transpose(words);
      if (exists) {
        *reinterpret_cast<uint4*>(target + i * 32 + (thread & 3) * 8) =
            make_uint4(words[0], words[1], words[2], words[3]);
      }
    }
  }

  __device__ __forceinline__ void store_output(Tile const& tile, float const (&factor)[2]) const {
    constexpr int kFirstDim = kGroup * (kLatentDim / 2);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      TileRow const to(tile, row + 8 * half);
      if (!Source::kPaged || args.num_splits == 1) {
        int64_t const offset =
            (tile.row + to.member) * args.out_row_stride + to.head * args.out_head_stride;
        store_row(args.out + (to.exists ? offset : 0) + kFirstDim, half, factor[half], to.exists);
      } else if (to.exists) {
        store_part(args.partial_out + tile.part(args, to) * kLatentDim + kFirstDim, half,
                   factor[half]);
      }
    }
  }

  // A value that is not finite reaches every row of a pack, with a weight of zero. Such rows attend
  // again, one by one.
  __device__ __forceinline__ void mark_leak(Tile const& tile) const {
    float finite = 0.f;
#pragma unroll
    for (int i = 0; i < 128; ++i) finite = fmaf(output[i], 0.f, finite);
    if (finite == 0.f) return;
    for (int64_t leaked = tile.row; leaked < tile.row + tile.rows; ++leaked) {
      args.unions.repairs[leaked] = {static_cast<int32_t>(leaked), Tile::list_length(args, leaked)};
    }
    *args.unions.leaked = 1;
  }

  __device__ void run() {
    uint32_t const tiles = num_tiles<Source>(args);
    uint32_t phase = 0, query_phase = 0, parity = 0;
    if constexpr (kAhead) issue_first_scores(0, 0, true, works_from(blockIdx.x, tiles));
    for (uint32_t index = next_tile<Source>(args, blockIdx.x, tiles); index < tiles;
         index = next_tile<Source>(args, index + gridDim.x, tiles)) {
      int num_pairs;
      {
        Tile const tile(args, index);
        num_pairs = tile.num_pairs;
        begin_tile(tile);
      }
      for (int pair = 0; pair < num_pairs; ++pair) {
        bool const last = pair + 1 == num_pairs;
        if constexpr (kGroup == 0) {
          pair_of_even(phase, query_phase, pair == 0, last, index + gridDim.x, tiles);
        } else {
          pair_of_odd(phase, query_phase, pair == 0, last);
        }
        phase ^= 1;
      }
      if (num_pairs > 0) query_phase ^= 1;
      Tile const tile(args, index);
      float factor[2];
      finish_rows(tile, parity, factor);
      if constexpr (Source::kPacks) {
        if (tile.packed) mark_leak(tile);
      }
      store_output(tile, factor);
      parity ^= 1;
    }
    if constexpr (kAhead) {
      ptx::wgmma_wait<0>();
      pin_registers(scores);
    }
  }
};

}  // namespace dsa_ops::sparse_mla::bf16
