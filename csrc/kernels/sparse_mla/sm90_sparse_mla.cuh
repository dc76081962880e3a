// Sparse MLA forward over bf16 rows.
//
//   s[h, j] = sm_scale * q[t, h] . kv[indices[t, j]],   out[t, h] = softmax_j(s[h, j]) . kv[.,
//   :512]
//
// A thread block works on 64 heads of one row t and one part of its index list, 64 tokens (a block)
// at a time; block order puts the head tiles of a row side by side, so that the second finds the
// gathered rows in L2.
//   warpgroup 0  scores and softmax, output dims 0 ... 255
//   warpgroup 1  output dims 256 ... 511, with the probabilities of warpgroup 0
//   warpgroup 2  gathers and masks the next tokens
// Two stages; V is the same bytes as K, read transposed. Registers 200 / 200 / 104.
#pragma once
#include "device/ptx/convert.cuh"
#include "device/ptx/shared.cuh"
#include "device/wgmma.cuh"
#include "kernels/sparse_mla/producer.cuh"
#include "kernels/sparse_mla/query.cuh"

namespace dsa_ops::sparse_mla {

// Rows that a thread's accumulators belong to: row() and row() + 8 of the tile.
struct FragmentPosition {
  int row;
  int column;  // of the first of two neighbouring values in every group of 8 columns
  int member;  // of the pack: the row of the input that both rows belong to

  __device__ FragmentPosition(Tile const& tile, int thread)
      : row(((thread >> 5) & 3) * 16 + ((thread & 31) >> 2)),
        column((thread & 3) * 2),
        member(min(TileRow(tile, row).member, tile.rows - 1)) {}
};

// Descriptor words between two 64-dim panels.
inline constexpr uint64_t kPanelStep = kPanelBytes >> 4;

// scores = q . k; waits for the result.
template <class Source>
__device__ __forceinline__ void compute_scores(SharedStorage<Source> const& shared, int stage,
                                               float (&scores)[32]) {
  uint64_t const q = k_major_descriptor(ptx::shared_address(shared.query));
  uint64_t const k = k_major_descriptor(ptx::shared_address(shared.kv[stage]));
  pin_registers(scores);
  ptx::wgmma_fence();
#pragma unroll
  for (int step = 0; step < Source::kHeadDim / 16; ++step) {
    uint64_t const offset = (step / 4) * kPanelStep + (step % 4) * 2;
    wgmma_ss<typename Source::ScoreMma>(scores, q + offset, k + offset, step != 0);
  }
  ptx::wgmma_commit();
  ptx::wgmma_wait<0>();
  pin_registers(scores);
}

// Online softmax of one row pair over the blocks of this part.
struct SoftmaxState {
  float reference[2] = {-INFINITY,
                        -INFINITY};           // of the probabilities: 2^(score + bias - reference)
  float maximum[2] = {-INFINITY, -INFINITY};  // of score + bias, log2 units
  float sum[2] = {0.f, 0.f};                  // this thread's columns only
};

// The reference follows the maximum only when that has grown by more than this: probabilities up to
// 2^8 round as well as those up to 1, and most blocks then leave the output accumulators alone.
inline constexpr float kReferenceSlackLog2 = 8.f;

// Turns raw products into probabilities in place; returns the output rescale factors.
template <class Source>
__device__ __forceinline__ void softmax_step(SharedStorage<Source> const& shared,
                                             KernelArgs const& args, int stage,
                                             FragmentPosition const& at, float (&scores)[32],
                                             SoftmaxState& state, float (&rescale)[2]) {
  float const* const bias = shared.bias[stage][at.member] + at.column;
  float maximum[2] = {-INFINITY, -INFINITY};
#pragma unroll
  for (int i = 0; i < 32; ++i) {
    int const half = (i >> 1) & 1;
    scores[i] = fmaf(scores[i], args.score_scale_log2, bias[(i >> 2) * 8 + (i & 1)]);
    maximum[half] = fmaxf(maximum[half], scores[i]);
  }
  float shift[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    maximum[half] = fmaxf(maximum[half], __shfl_xor_sync(0xFFFFFFFFu, maximum[half], 1));
    maximum[half] = fmaxf(maximum[half], __shfl_xor_sync(0xFFFFFFFFu, maximum[half], 2));
    state.maximum[half] = fmaxf(state.maximum[half], maximum[half]);
    float const before = state.reference[half];
    bool const grows = maximum[half] > before + kReferenceSlackLog2;
    if (grows) state.reference[half] = maximum[half];
    shift[half] = state.reference[half] == -INFINITY ? 0.f : state.reference[half];
    rescale[half] = grows ? ptx::exp2_flushed(before - shift[half]) : 1.f;
    state.sum[half] *= rescale[half];
  }
#pragma unroll
  for (int i = 0; i < 32; ++i) {
    int const half = (i >> 1) & 1;
    scores[i] = ptx::exp2_flushed(scores[i] - shift[half]);
    state.sum[half] += scores[i];
  }
}

// Output of one consumer warpgroup: two groups of 128 dims.
using OutputTile = float[2][64];

template <class Source>
__device__ __forceinline__ void issue_values(float (&output)[64], uint32_t const (&fragments)[4][4],
                                             uint64_t value) {
  constexpr uint64_t kTokenStep = 16 * 128 >> 4;  // 16 tokens, rows of 128 bytes
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    wgmma_rs<typename Source::OutputMma>(output, fragments[step], value + step * kTokenStep, true);
  }
  ptx::wgmma_commit();
}

// output += P . V for the dims of one consumer warpgroup; waits for the result.
template <class Source>
__device__ __forceinline__ void multiply_values(OutputTile& output, SharedStorage<Source>& shared,
                                                int stage, int half, int thread) {
  uint64_t const value =
      mn_major_descriptor(ptx::shared_address(shared.kv[stage][half * 4]), kPanelBytes);
  uint32_t const* const probability = shared.probability_of(stage);
  uint32_t fragments[4][4];
#pragma unroll
  for (int i = 0; i < 16; ++i) fragments[i >> 2][i & 3] = probability[i * 128 + thread];
  pin_registers(output[0]);
  pin_registers(output[1]);
  ptx::wgmma_fence();
#pragma unroll
  for (int part = 0; part < 2; ++part) {
    issue_values<Source>(output[part], fragments, value + part * 2 * kPanelStep);
  }
  ptx::wgmma_wait<0>();
  pin_registers(output[0]);
  pin_registers(output[1]);
}

// Writes a consumer warpgroup's half of the output tile: bf16 through the query's shared memory
// (its last read is over) and coalesced rows, or fp32 partials straight from registers.
template <class Source>
__device__ void store_output(SharedStorage<Source>& shared, KernelArgs const& args,
                             Tile const& tile, FragmentPosition const& at, int half, int thread,
                             OutputTile const& output) {
  if (args.num_splits > 1) {
    int64_t const part = tile.row * args.num_splits + tile.split;
#pragma unroll
    for (int lower = 0; lower < 2; ++lower) {
      TileRow const to(tile, at.row + lower * 8);
      if (!to.exists) continue;
      float* const target = args.partial_out + (part * args.num_heads + to.head) * kLatentDim +
                            half * kHalfDim + at.column;
#pragma unroll
      for (int group = 0; group < 32; ++group) {
        float const* pair = &output[group >> 4][(group & 15) * 4 + lower * 2];
        *reinterpret_cast<float2*>(target + group * 8) = make_float2(pair[0], pair[1]);
      }
    }
    return;
  }
  uint32_t const panels = ptx::shared_address(shared.query[half * 4]);
#pragma unroll
  for (int i = 0; i < 128; i += 2) {
    int const row = at.row + ((i >> 1) & 1) * 8;
    int const group = i >> 2;  // of 8 columns
    ptx::store_shared_4(
        panels + (group >> 3) * kPanelBytes + swizzled_chunk(row, group & 7) + at.column * 2,
        ptx::pack_bf16(output[i >> 6][i & 63], output[i >> 6][(i & 63) + 1]));
  }
  ptx::named_barrier_sync(kOutputStaged + half, 128);
  int const lane = thread & 31;
#pragma unroll 4
  for (int row = (thread >> 5) & 3; row < kTileHeads; row += 4) {
    TileRow const to(tile, row);
    if (!to.exists) continue;
    auto const* staged = reinterpret_cast<uint4 const*>(shared.query[half * 4 + (lane >> 3)] +
                                                        swizzled_chunk(row, lane & 7));
    uint16_t* target = args.out + (tile.row + to.member) * args.out_row_stride +
                       to.head * args.out_head_stride + half * kHalfDim + lane * 8;
    *reinterpret_cast<uint4*>(target) = *staged;
  }
}

// Log-sum-exp and maximum of the tile's rows, and the factors that normalise the output.
template <class Source>
__device__ void finish_rows(SharedStorage<Source>& shared, KernelArgs const& args, Tile const& tile,
                            FragmentPosition const& at, SoftmaxState const& state) {
  constexpr float kLn2 = 0.6931471805599453f;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float sum = state.sum[half];
    sum += __shfl_xor_sync(0xFFFFFFFFu, sum, 1);
    sum += __shfl_xor_sync(0xFFFFFFFFu, sum, 2);
    bool const empty = sum == 0.f;
    float const lse_log2 = empty ? -INFINITY : state.reference[half] + log2f(sum);
    float factor = empty ? 0.f : 1.f / sum;
    int const row = at.row + half * 8;
    TileRow const to(tile, row);
    bool const writes = at.column == 0 && to.exists;
    if (args.num_splits > 1) {
      int64_t const part = tile.row * args.num_splits + tile.split;
      if (writes) args.partial_lse[part * args.num_heads + to.head] = lse_log2;
    } else {
      if (args.attn_sink && to.exists && !empty) {
        factor /= 1.f + expf(args.attn_sink[to.head] - lse_log2 * kLn2);
      }
      int64_t const position = (tile.row + to.member) * args.num_heads + to.head;
      if (writes) args.lse[position] = lse_log2 * kLn2;
      if (writes && args.max_logits) args.max_logits[position] = state.maximum[half] * kLn2;
    }
    if (at.column == 0) shared.output_factor[row] = factor;
  }
}

// One consumer warpgroup.
template <class Source>
struct Consumer {
  SharedStorage<Source>& shared;
  KernelArgs const& args;
  int const warpgroup;
  int const thread;
  FragmentPosition const at;
  SoftmaxState state;
  OutputTile output;

  __device__ Consumer(SharedStorage<Source>& storage, KernelArgs const& kernel_args,
                      Tile const& tile, int index, int thread_index)
      : shared(storage),
        args(kernel_args),
        warpgroup(index),
        thread(thread_index),
        at(tile, thread_index) {
#pragma unroll
    for (int i = 0; i < 128; ++i) output[i >> 6][i & 63] = 0.f;
  }

  __device__ __forceinline__ void wait_for_tokens(int stage, int block) {
    ptx::mbarrier_wait(&shared.kv_full[stage], (block / kStages) & 1);
    ptx::fence_proxy_async();  // the producer's writes went through the generic proxy
  }

  __device__ __forceinline__ void release(int stage) {
    __syncwarp();
    if ((thread & 31) == 0) ptx::mbarrier_arrive(&shared.kv_empty[stage]);
  }

  __device__ __forceinline__ void scale_output(float const (&factor)[2]) {
#pragma unroll
    for (int i = 0; i < 128; ++i) output[i >> 6][i & 63] *= factor[(i >> 1) & 1];
  }

  // Warpgroup 0: scores and probabilities of a block, published for warpgroup 1.
  __device__ __forceinline__ void compute_probabilities(int stage, float (&rescale)[2]) {
    float scores[32];
    compute_scores(shared, stage, scores);
    softmax_step(shared, args, stage, at, scores, state, rescale);
    uint32_t* const probability = shared.probability_of(stage);
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      probability[i * 128 + thread] = ptx::pack_bf16(scores[2 * i], scores[2 * i + 1]);
    }
    if (at.column == 0) {
      shared.rescale[stage][at.row] = rescale[0];
      shared.rescale[stage][at.row + 8] = rescale[1];
    }
    ptx::mbarrier_arrive(&shared.probability_full[stage]);
  }

  // Warpgroup 1.
  __device__ __forceinline__ void receive_probabilities(int stage, int block, float (&rescale)[2]) {
    ptx::mbarrier_wait(&shared.probability_full[stage], (block / kStages) & 1);
    rescale[0] = shared.rescale[stage][at.row];
    rescale[1] = shared.rescale[stage][at.row + 8];
  }

  // A value that is not finite reaches every row of a pack, with a weight of zero. Such rows attend
  // again, one by one.
  __device__ __forceinline__ void mark_leak(Tile const& tile) {
    float finite = 0.f;
#pragma unroll
    for (int i = 0; i < 128; ++i) finite = fmaf(output[i >> 6][i & 63], 0.f, finite);
    if (finite == 0.f) return;
    for (int64_t row = tile.row; row < tile.row + tile.rows; ++row) {
      args.unions.repairs[row] = {static_cast<int32_t>(row), list_length(args, row)};
    }
    *args.unions.leaked = 1;
  }

  __device__ void run(int num_blocks) {
    for (int block = 0; block < num_blocks; ++block) {
      int const stage = block % kStages;
      wait_for_tokens(stage, block);
      float rescale[2];
      if (warpgroup == 0) {
        compute_probabilities(stage, rescale);
      } else {
        receive_probabilities(stage, block, rescale);
      }
      if (__any_sync(0xFFFFFFFFu, rescale[0] != 1.f || rescale[1] != 1.f)) scale_output(rescale);
      multiply_values(output, shared, stage, warpgroup, thread);
      release(stage);
    }
    Tile const tile = tile_of_block(args, shared.pack_tile);
    if (warpgroup == 0) finish_rows(shared, args, tile, at, state);
    ptx::named_barrier_sync(kFactorReady, kConsumerThreads);
    float const factor[2] = {shared.output_factor[at.row], shared.output_factor[at.row + 8]};
    scale_output(factor);
    if (tile.packed) mark_leak(tile);
    store_output(shared, args, tile, at, warpgroup, thread, output);
  }
};

template <class Source>
__global__ void __launch_bounds__(kThreads, 1)
    sparse_mla_kernel(__grid_constant__ const KernelArgs args) {
  if (args.pack_rows > 1 && args.tiles == args.unions.repairs && *args.unions.leaked == 0) return;
  extern __shared__ uint8_t raw_storage[];
  auto& shared = *reinterpret_cast<SharedStorage<Source>*>(raw_storage);
  // The warp index as a uniform value keeps the role branches and descriptors in uniform registers.
  int const warpgroup = __shfl_sync(0xFFFFFFFFu, threadIdx.x >> 7, 0);
  int const thread = threadIdx.x & 127;
  if (threadIdx.x == 0) {
    if (args.pack_rows > 1) shared.pack_tile = args.tiles[blockIdx.x];
    for (int stage = 0; stage < kStages; ++stage) {
      ptx::mbarrier_init(&shared.kv_full[stage], 2 * kProducerThreads);
      ptx::mbarrier_init(&shared.kv_empty[stage], kConsumerThreads / 32);
      ptx::mbarrier_init(&shared.probability_full[stage], 128);
    }
    ptx::fence_mbarrier_init();
  }
  __syncthreads();
  if (tile_of_block(args, shared.pack_tile).rows == 0) return;
  if (warpgroup == 2) {
    ptx::setmaxnreg_dec<kProducerRegisters>();
    Tile const tile = tile_of_block(args, shared.pack_tile);
    produce(shared, args, index_list(args, shared.pack_tile, tile), thread);
  } else {
    ptx::setmaxnreg_inc<kConsumerRegisters>();
    Tile const tile = tile_of_block(args, shared.pack_tile);
    load_queries(shared, args, tile, threadIdx.x);
    ptx::fence_proxy_async();
    ptx::named_barrier_sync(kQueryReady, kConsumerThreads);
    int const num_blocks = index_list(args, shared.pack_tile, tile).num_blocks;
    Consumer<Source>(shared, args, tile, warpgroup, thread).run(num_blocks);
  }
}

}  // namespace dsa_ops::sparse_mla
