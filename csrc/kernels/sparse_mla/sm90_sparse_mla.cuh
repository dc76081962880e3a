// Sparse MLA forward, prefill and decode.
//
//   s[h, j] = sm_scale * q[t, h] . kv[indices[t, j]],   out[t, h] = softmax_j(s[h, j]) . kv[.,
//   :512]
//
// A thread block works on 64 heads of one row t and one part of its index list; block order puts
// the head tiles of a row side by side, so that the second finds the gathered rows in L2.
//   warpgroup 0  scores (64 x 64 a block), online softmax, output dims 0 ... 255
//   warpgroup 1  output dims 256 ... 511, with the probabilities of warpgroup 0 from shared memory
//   warpgroup 2  gathers, converts and masks the next 64 tokens
// Two stages of 64 tokens; V is the same bytes as K, read transposed. Registers 208 / 208 / 88.
//
// The softmax weight of a token with power-of-two scale 2^e (FP8 cache) is kept as
// 2^(s + e - m): its V was divided by 2^e, so this is its weight in the output, and m bounds it.
// The row sum takes the 2^e out again. With bf16 rows e = 0.
#pragma once
#include "device/wgmma.cuh"
#include "kernels/sparse_mla/producer.cuh"
#include "kernels/sparse_mla/query.cuh"

namespace dsa_ops::sparse_mla {

// Where this thread block works.
struct Tile {
  int64_t row;
  int first_head;
  int heads;  // of the tile that exist
  int split;
};

__device__ __forceinline__ Tile tile_of_block(KernelArgs const& args) {
  uint32_t const block = blockIdx.x;
  uint32_t const tile = block / args.num_splits;
  uint32_t const row = tile / args.head_tiles;
  int const first_head = (tile - row * args.head_tiles) * kTileHeads;
  return {row, first_head, min(kTileHeads, args.num_heads - first_head),
          static_cast<int>(block - tile * args.num_splits)};
}

__device__ __forceinline__ IndexList index_list(KernelArgs const& args, Tile const& tile) {
  int length = args.top_k;
  if (args.topk_lens) length = min(length, max(args.topk_lens[tile.row], 0));
  int const first = tile.split * args.blocks_per_split;
  int const end = min((length + kBlockTokens - 1) / kBlockTokens, first + args.blocks_per_split);
  return {args.indices + tile.row * args.indices_row_stride, length, first, max(end - first, 0),
          args.num_keys};
}

// Rows that a thread's accumulators belong to: row() and row() + 8 of the tile.
struct FragmentPosition {
  int row;
  int column;  // of the first of two neighbouring values in every group of 8 columns

  __device__ explicit FragmentPosition(int thread)
      : row(((thread >> 5) & 3) * 16 + ((thread & 31) >> 2)), column((thread & 3) * 2) {}
};

template <class Source>
__device__ __forceinline__ void issue_scores(SharedStorage<Source> const& shared, int stage,
                                             float (&scores)[32]) {
  constexpr int kPanels = SharedStorage<Source>::kPanels;
  uint64_t const q = k_major_descriptor(ptx::shared_address(shared.query));
  uint64_t const k = k_major_descriptor(ptx::shared_address(shared.kv[stage]));
#pragma unroll
  for (int step = 0; step < kPanels * 4; ++step) {
    uint64_t const offset = (step / 4) * (kPanelBytes >> 4) + (step % 4) * 2;
    if (step < kLatentPanels * 4) {
      wgmma_ss<typename Source::ScoreMma>(scores, q + offset, k + offset, step != 0);
    } else {
      wgmma_ss<typename Source::RopeMma>(scores, q + offset, k + offset, true);
    }
  }
}

// Online softmax of one row pair over the blocks of this part.
struct SoftmaxState {
  float maximum[2] = {-INFINITY, -INFINITY};  // of score + bias, log2 units
  float sum[2] = {0.f, 0.f};                  // this thread's columns only
};

// Turns raw products into probabilities in place; returns the output rescale factors.
template <class Source>
__device__ __forceinline__ void softmax_step(SharedStorage<Source> const& shared,
                                             KernelArgs const& args, int stage,
                                             FragmentPosition const& at, float (&scores)[32],
                                             SoftmaxState& state, float (&rescale)[2]) {
  float row_scale[2] = {args.score_scale_log2, args.score_scale_log2};
  if constexpr (Source::kFp8Cache) {
    row_scale[0] = shared.query_scale[at.row];
    row_scale[1] = shared.query_scale[at.row + 8];
  }
  float maximum[2] = {state.maximum[0], state.maximum[1]};
#pragma unroll
  for (int i = 0; i < 32; ++i) {
    int const half = (i >> 1) & 1;
    int const token = (i >> 2) * 8 + at.column + (i & 1);
    float const bias = shared.token_bias[stage][token];
    if constexpr (Source::kFp8Cache) {
      scores[i] = fmaf(scores[i] * row_scale[half], shared.token_scale[stage][token], bias);
    } else {
      scores[i] = fmaf(scores[i], row_scale[half], bias);
    }
    maximum[half] = fmaxf(maximum[half], scores[i]);
  }
  float shift[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    maximum[half] = fmaxf(maximum[half], __shfl_xor_sync(0xFFFFFFFFu, maximum[half], 1));
    maximum[half] = fmaxf(maximum[half], __shfl_xor_sync(0xFFFFFFFFu, maximum[half], 2));
    shift[half] = maximum[half] == -INFINITY ? 0.f : maximum[half];
    rescale[half] = exp2f(state.maximum[half] - shift[half]);
    state.maximum[half] = maximum[half];
    state.sum[half] *= rescale[half];
  }
#pragma unroll
  for (int i = 0; i < 32; ++i) {
    int const half = (i >> 1) & 1;
    scores[i] = exp2f(scores[i] - shift[half]);
    if constexpr (Source::kFp8Cache) {
      int const token = (i >> 2) * 8 + at.column + (i & 1);
      state.sum[half] = fmaf(scores[i], shared.token_inverse[stage][token], state.sum[half]);
    } else {
      state.sum[half] += scores[i];
    }
  }
}

__device__ __forceinline__ void store_shared_4(uint32_t address, uint32_t value) {
  asm volatile("st.shared.u32 [%0], %1;" ::"r"(address), "r"(value) : "memory");
}

__device__ __forceinline__ void scale_output(float (&output)[128], float const (&factor)[2]) {
#pragma unroll
  for (int i = 0; i < 128; ++i) output[i] *= factor[(i >> 1) & 1];
}

// The V operand of one half of the output dims: transposed panels of a stage.
template <class Source>
__device__ __forceinline__ uint64_t value_descriptor(SharedStorage<Source> const& shared, int stage,
                                                     int half) {
  return mn_major_descriptor(ptx::shared_address(shared.kv[stage][half * 4]), kPanelBytes);
}

// Advancing V by 16 tokens: 16 rows of 128 bytes.
inline constexpr uint64_t kValueStep = 16 * 128 >> 4;

// Writes a consumer warpgroup's half of the output tile: bf16 through the query's shared memory
// (its last read is over) and coalesced rows, or fp32 partials straight from registers.
template <class Source>
__device__ void store_output(SharedStorage<Source>& shared, KernelArgs const& args,
                             Tile const& tile, FragmentPosition const& at, int half, int thread,
                             float const (&output)[128]) {
  if (args.num_splits > 1) {
    int64_t const part = tile.row * args.num_splits + tile.split;
#pragma unroll
    for (int i = 0; i < 128; i += 2) {
      int const row = at.row + ((i >> 1) & 1) * 8;
      if (row >= tile.heads) continue;
      float* target = args.partial_out +
                      (part * args.num_heads + tile.first_head + row) * kLatentDim +
                      half * kHalfDim + (i >> 2) * 8 + at.column;
      *reinterpret_cast<float2*>(target) = make_float2(output[i], output[i + 1]);
    }
    return;
  }
  uint32_t const panels = ptx::shared_address(shared.query[half * 4]);
#pragma unroll
  for (int i = 0; i < 128; i += 2) {
    int const row = at.row + ((i >> 1) & 1) * 8;
    int const group = i >> 2;  // of 8 columns
    store_shared_4(
        panels + (group >> 3) * kPanelBytes + swizzled_chunk(row, group & 7) + at.column * 2,
        pack_bf16(output[i], output[i + 1]));
  }
  ptx::named_barrier_sync(kOutputStaged + half, 128);
  int const lane = thread & 31;
  for (int row = (thread >> 5) & 3; row < tile.heads; row += 4) {
    auto const* staged = reinterpret_cast<uint4 const*>(shared.query[half * 4 + (lane >> 3)] +
                                                        swizzled_chunk(row, lane & 7));
    uint16_t* target = args.out + tile.row * args.out_row_stride +
                       (tile.first_head + row) * args.out_head_stride + half * kHalfDim + lane * 8;
    *reinterpret_cast<uint4*>(target) = *staged;
  }
}

// Log-sum-exp and maximum of the tile's rows, and the factor that normalises the output.
template <class Source>
__device__ void finish_rows(SharedStorage<Source>& shared, KernelArgs const& args, Tile const& tile,
                            FragmentPosition const& at, SoftmaxState const& state,
                            float (&factor)[2]) {
  constexpr float kLn2 = 0.6931471805599453f;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float sum = state.sum[half];
    sum += __shfl_xor_sync(0xFFFFFFFFu, sum, 1);
    sum += __shfl_xor_sync(0xFFFFFFFFu, sum, 2);
    bool const empty = sum == 0.f;
    float const lse_log2 = empty ? -INFINITY : state.maximum[half] + log2f(sum);
    factor[half] = empty ? 0.f : 1.f / sum;
    int const row = at.row + half * 8;
    int const head = tile.first_head + row;
    bool const writes = at.column == 0 && row < tile.heads;
    if (args.num_splits > 1) {
      int64_t const part = tile.row * args.num_splits + tile.split;
      if (writes) args.partial_lse[part * args.num_heads + head] = lse_log2;
    } else {
      if (args.attn_sink && row < tile.heads && !empty) {
        factor[half] /= 1.f + expf(args.attn_sink[head] - lse_log2 * kLn2);
      }
      int64_t const position = tile.row * args.num_heads + head;
      if (writes) args.lse[position] = lse_log2 * kLn2;
      if (writes && args.max_logits) args.max_logits[position] = state.maximum[half] * kLn2;
    }
    if (at.column == 0) shared.output_factor[row] = factor[half];
  }
}

// Warpgroup 0. Barriers: kv_full (waits), kv_empty (arrives), probability and factor (see traits).
template <class Source>
__device__ void consume_scores(SharedStorage<Source>& shared, KernelArgs const& args,
                               Tile const& tile, int num_blocks, int thread) {
  FragmentPosition const at(thread);
  uint32_t const probability = ptx::shared_address(shared.probability);
  SoftmaxState state;
  float output[128];
#pragma unroll
  for (float& value : output) value = 0.f;

  for (int block = 0; block < num_blocks; ++block) {
    int const stage = block % kStages;
    ptx::mbarrier_wait(&shared.kv_full[stage], (block / kStages) & 1);
    float scores[32];
    pin_registers(scores);
    ptx::wgmma_fence();
    issue_scores(shared, stage, scores);
    ptx::wgmma_commit();
    ptx::wgmma_wait<0>();
    pin_registers(scores);

    float rescale[2];
    softmax_step(shared, args, stage, at, scores, state, rescale);
    uint32_t packed[4][4];  // A fragments of four 16-token steps
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      packed[i >> 2][i & 3] = Source::kFp8Cache ? pack_f16(scores[2 * i], scores[2 * i + 1])
                                                : pack_bf16(scores[2 * i], scores[2 * i + 1]);
    }

    if (block) ptx::named_barrier_sync(kProbabilityFree, kConsumerThreads);
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      store_shared_4(probability + swizzled_chunk(at.row + (i & 1) * 8, i >> 1) + at.column * 2,
                     packed[i >> 2][i & 3]);
    }
    if (at.column == 0) {
      shared.rescale[at.row] = rescale[0];
      shared.rescale[at.row + 8] = rescale[1];
    }
    ptx::fence_proxy_async();
    ptx::named_barrier_arrive(kProbabilityReady, kConsumerThreads);

    scale_output(output, rescale);
    uint64_t const value = value_descriptor(shared, stage, 0);
    pin_registers(output);
    ptx::wgmma_fence();
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      wgmma_rs<typename Source::OutputMmaFromRegisters>(output, packed[step],
                                                        value + step * kValueStep, true);
    }
    ptx::wgmma_commit();
    ptx::wgmma_wait<0>();
    pin_registers(output);
    __syncwarp();
    if ((thread & 31) == 0) ptx::mbarrier_arrive(&shared.kv_empty[stage]);
  }

  float factor[2];
  finish_rows(shared, args, tile, at, state, factor);
  ptx::named_barrier_arrive(kFactorReady, kConsumerThreads);
  scale_output(output, factor);
  store_output(shared, args, tile, at, 0, thread, output);
}

// Warpgroup 1.
template <class Source>
__device__ void consume_values(SharedStorage<Source>& shared, KernelArgs const& args,
                               Tile const& tile, int num_blocks, int thread) {
  FragmentPosition const at(thread);
  uint64_t const probability = k_major_descriptor(ptx::shared_address(shared.probability));
  float output[128];
#pragma unroll
  for (float& value : output) value = 0.f;

  for (int block = 0; block < num_blocks; ++block) {
    int const stage = block % kStages;
    ptx::mbarrier_wait(&shared.kv_full[stage], (block / kStages) & 1);
    ptx::named_barrier_sync(kProbabilityReady, kConsumerThreads);
    float const rescale[2] = {shared.rescale[at.row], shared.rescale[at.row + 8]};
    scale_output(output, rescale);
    uint64_t const value = value_descriptor(shared, stage, 1);
    pin_registers(output);
    ptx::wgmma_fence();
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      wgmma_ss<typename Source::OutputMmaFromShared>(output, probability + step * 2,
                                                     value + step * kValueStep, true);
    }
    ptx::wgmma_commit();
    ptx::wgmma_wait<0>();
    pin_registers(output);
    if (block + 1 < num_blocks) ptx::named_barrier_arrive(kProbabilityFree, kConsumerThreads);
    __syncwarp();
    if ((thread & 31) == 0) ptx::mbarrier_arrive(&shared.kv_empty[stage]);
  }

  ptx::named_barrier_sync(kFactorReady, kConsumerThreads);
  float const factor[2] = {shared.output_factor[at.row], shared.output_factor[at.row + 8]};
  scale_output(output, factor);
  store_output(shared, args, tile, at, 1, thread, output);
}

template <class Source>
__global__ void __launch_bounds__(kThreads, 1)
    sparse_mla_kernel(__grid_constant__ const KernelArgs args) {
  extern __shared__ uint8_t raw_storage[];
  auto& shared = *reinterpret_cast<SharedStorage<Source>*>(raw_storage);
  // The warp index as a uniform value keeps the role branches and descriptors in uniform registers.
  int const warpgroup = __shfl_sync(0xFFFFFFFFu, threadIdx.x >> 7, 0);
  int const thread = threadIdx.x & 127;
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < kStages; ++stage) {
      ptx::mbarrier_init(&shared.kv_full[stage], kProducerThreads);
      ptx::mbarrier_init(&shared.kv_empty[stage], kConsumerThreads / 32);
    }
    ptx::fence_mbarrier_init();
  }
  __syncthreads();
  Tile const tile = tile_of_block(args);
  IndexList const list = index_list(args, tile);

  if (warpgroup == 2) {
    ptx::setmaxnreg_dec<kProducerRegisters>();
    produce(shared, args, list, thread);
  } else {
    ptx::setmaxnreg_inc<kConsumerRegisters>();
    load_queries(shared, args,
                 args.q + tile.row * args.q_row_stride + tile.first_head * args.q_head_stride,
                 tile.heads, threadIdx.x);
    ptx::fence_proxy_async();
    ptx::named_barrier_sync(kQueryReady, kConsumerThreads);
    if (warpgroup == 0) {
      consume_scores(shared, args, tile, list.num_blocks, thread);
    } else {
      consume_values(shared, args, tile, list.num_blocks, thread);
    }
  }
}

}  // namespace dsa_ops::sparse_mla
