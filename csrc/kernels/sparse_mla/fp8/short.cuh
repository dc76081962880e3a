// The FP8-cache kernel for splits of few tokens, whose blocks all fit the stages: a block of tokens
// need not wait for the scores of the one before it. Warpgroup 3 has issued every copy at once, and
// then scores the odd blocks beside warpgroup 0, which scores the even ones.
//
// References still pass from block to block in their order, so that warpgroups 1 and 2 see what
// they see from one scoring warpgroup: a block waits for the reference before it only between its
// scores and their exponents.
#pragma once
#include "kernels/sparse_mla/fp8/gather.cuh"
#include "kernels/sparse_mla/fp8/kernel.cuh"

namespace dsa_ops::sparse_mla::fp8 {

template <class HeadTile>
struct ShortStorage : SharedStorage<HeadTile> {
  static constexpr int kHeads = HeadTile::kHeads;
  static constexpr int kBlocks = HeadTile::kStages;  // of a split, at most
  // Of each scoring warpgroup, as `warp_result` and `step`.
  float warp_maximum[2][4][kHeads];
  float own_step[2][kHeads];
  // Sums of a block's probabilities by warp, and what they are relative to.
  float block_sum[kBlocks][4][kHeads];
  float block_reference[kBlocks][kHeads];
  uint64_t settled[kBlocks];  // 1 arrival: no block up to this one still changes a reference
  uint32_t seen;              // whether a token of a settled block exists
};

template <class HeadTile>
struct ShortScores : ScoreWarpgroup<HeadTile> {
  using Base = ScoreWarpgroup<HeadTile>;
  using Scores = typename Base::Scores;
  using Base::kColumns;
  using Base::kTiles;
  static constexpr int kHeads = HeadTile::kHeads;

  ShortStorage<HeadTile>& storage;
  int const parity;  // of its blocks

  __device__ ShortScores(ShortStorage<HeadTile>& storage_, int parity_, int thread)
      : Base(storage_, thread), storage(storage_), parity(parity_) {}

  static __device__ __forceinline__ int own_thread() { return Base::thread_index() & 127; }

  __device__ __forceinline__ int vote_barrier() const { return parity ? kSecondVote : kScoreVote; }

  // Raises the references of the heads whose maximum has outgrown them. Returns what this thread's
  // head, if it has one, was raised by.
  __device__ __forceinline__ float raise(Scores& exponents, int buffer, bool started) {
    int const thread = own_thread(), lane = thread & 31;
    float maximum[kColumns];
#pragma unroll
    for (int column = 0; column < kColumns; ++column) {
      int const i = (column >> 1) * 4 + (column & 1);
      maximum[column] = fmaxf(exponents[i], exponents[i + 2]);
    }
    Base::reduce_columns(maximum, lane, [](float a, float b) { return fmaxf(a, b); });
    auto& result = storage.warp_maximum[parity];
    Base::store_columns(result[this->warp], maximum, lane);
    ptx::named_barrier_sync(vote_barrier(), 128);
    float step = 0.f;
    if (thread < kHeads) {
      float const largest = fmaxf(fmaxf(result[0][thread], result[1][thread]),
                                  fmaxf(result[2][thread], result[3][thread]));
      if (largest > -INFINITY && (!started || largest > kSlackLog2)) step = largest;
      storage.own_step[parity][thread] = step;
      storage.column[thread].y -= step;
      storage.rescale[buffer][thread] = started ? ptx::exp2_flushed(-step) : 1.f;
    }
    ptx::named_barrier_sync(vote_barrier(), 128);
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      float2 const own =
          *reinterpret_cast<float2 const*>(&storage.own_step[parity][Base::head_of(tile, lane)]);
#pragma unroll
      for (int i = 0; i < 4; ++i) exponents[tile * 4 + i] -= (i & 1) ? own.y : own.x;
    }
    return step;
  }

  // To probabilities in f16 and the sums of a thread's own tokens.
  static __device__ __forceinline__ void exponentiate(Scores const& exponents,
                                                      TokenScales const (&token)[2],
                                                      uint32_t (&packed)[kColumns],
                                                      float (&sums)[kColumns]) {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      float p[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) p[i] = ptx::exp2_flushed(exponents[tile * 4 + i]);
      packed[tile * 2] = ptx::pack_f16(p[0], p[1]);
      packed[tile * 2 + 1] = ptx::pack_f16(p[2], p[3]);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        sums[tile * 2 + i] = fmaf(p[2 + i], token[1].inverse, p[i] * token[0].inverse);
      }
    }
  }

  __device__ __forceinline__ void publish(Scores& scores, TokenScales const (&token)[2],
                                          int block) {
    int const thread = own_thread(), buffer = block & 1;
    if (block > 0) ptx::mbarrier_wait(&storage.settled[block - 1], 0);
    bool const started = block > 0 && storage.seen != 0;
    float reference = thread < kHeads ? -storage.column[thread].y : 0.f;
    this->to_exponents(scores, token);
    float maximum = scores[0];
#pragma unroll
    for (int i = 1; i < 2 * kColumns; ++i) maximum = fmaxf(maximum, scores[i]);
    ptx::mbarrier_wait(&storage.probability_empty[buffer], (block >> 1 & 1) ^ 1);
    bool const raises = any_of_warpgroup(!started || maximum > kSlackLog2, vote_barrier());
    if (raises) reference += raise(scores, buffer, started);
    if (thread == 0) {
      auto const words = *reinterpret_cast<uint2 const*>(storage.exists[block]);
      if ((words.x | words.y) != 0) storage.seen = 1;
      storage.rescales[buffer] = raises && started;
      // Every thread of the warpgroup has read its references before a barrier of the vote.
      ptx::mbarrier_arrive(&storage.settled[block]);
    }
    uint32_t packed[kColumns];
    float sums[kColumns];
    exponentiate(scores, token, packed, sums);
    this->store_probabilities(buffer, packed);
    ptx::fence_proxy_async();
    this->release(&storage.probability_full[buffer]);
    int const lane = thread & 31;
    Base::reduce_columns(sums, lane, [](float a, float b) { return a + b; });
    Base::store_columns(storage.block_sum[block][this->warp], sums, lane);
    if (thread < kHeads) storage.block_reference[block][thread] = reference;
  }

  __device__ void run(int num_blocks) {
#pragma unroll 1
    for (int block = parity; block < num_blocks; block += 2) {
      ptx::mbarrier_wait(&storage.token_full[block], 0);
      Scores scores;
      TokenScales token[2];
      this->multiply(block, scores, token);
      publish(scores, token, block);
    }
  }

  // By warpgroup 0, once all sums are there.
  __device__ __forceinline__ void finish(KernelArgs const& args, int num_blocks) {
    int const thread = own_thread();
    if (thread >= kHeads) return;
    float const reference = -storage.column[thread].y;
    float total = 0.f;
#pragma unroll 1
    for (int block = 0; block < num_blocks; ++block) {
      auto const& sums = storage.block_sum[block];
      float const sum = (sums[0][thread] + sums[1][thread]) + (sums[2][thread] + sums[3][thread]);
      // Before the first token a reference has no meaning.
      float const weight = ptx::exp2_flushed(storage.block_reference[block][thread] - reference);
      total += sum == 0.f ? 0.f : sum * weight;
    }
    hand_over_sum<true>(storage, args, split_of_block(), thread,
                        make_float2(total == 0.f ? -INFINITY : reference, total));
  }
};

template <class HeadTile>
__device__ __forceinline__ void init_short(ShortStorage<HeadTile>& shared, KernelArgs const& args) {
  for (uint64_t& barrier : shared.settled) ptx::mbarrier_init(&barrier, 1);
  shared.seen = 0;
  init_barriers(static_cast<SharedStorage<HeadTile>&>(shared));
  expect_parts(static_cast<SharedStorage<HeadTile>&>(shared), args, split_of_block());
}

// The splits of a row are a cluster. No setmaxnreg: 128 registers are enough for every role.
template <class HeadTile>
__global__ void __launch_bounds__(kThreads, 1)
    sm90_fp8_sparse_mla_short_kernel(__grid_constant__ const KernelArgs args) {
  extern __shared__ uint8_t raw_storage[];
  auto& shared = *reinterpret_cast<ShortStorage<HeadTile>*>(raw_storage);
  SharedStorage<HeadTile>& common = shared;
  int const warpgroup = __shfl_sync(0xFFFFFFFFu, threadIdx.x >> 7, 0);
  int const thread = threadIdx.x & 127;
  constexpr int kThree = kThreads - 128;
  auto const tile = [&args] { return tile_of<HeadTile::kHeads>(args, first_tile()); };
  if (warpgroup == 1 || warpgroup == 2) {
    ptx::cluster_arrive_relaxed();
    load_query_tile<256>(common, args, tile(), static_cast<int>(threadIdx.x) - 128);
    ptx::fence_proxy_async();
    ptx::named_barrier_arrive(kSecondQueryReady, kThree);
    ptx::named_barrier_sync(kQueryReady, kThree);
    ValueWarpgroup<HeadTile> values(common, thread);
    values.run(index_list(args, tile()).num_blocks);
    ptx::cluster_wait_acquire();
    values.template hand_over_part<true>(args, tile().split);
    ptx::named_barrier_sync(kFactorReady, kThree);
    join_parts(common, args, tile(), static_cast<int>(threadIdx.x) - 128);
    return;
  }
  bool const second = warpgroup == 3;
  if (second) {
    RingPlace<HeadTile::kStages> place;
    gather_tokens<true>(common, args, index_list(args, tile()), place, true, thread);
    ptx::named_barrier_sync(kSecondQueryReady, kThree);
  } else {
    if (threadIdx.x == 0) init_short(shared, args);
    __syncwarp();
    ptx::named_barrier_arrive(kBarriersReady, 256);
    ptx::cluster_arrive_relaxed();
    ptx::named_barrier_sync(kQueryReady, kThree);
  }
  int const num_blocks = index_list(args, tile()).num_blocks;
  ShortScores<HeadTile> scores(shared, second, thread);
  scores.run(num_blocks);
  if (second) {
    ptx::named_barrier_arrive(kSumsReady, 256);
    PartStages<HeadTile>(args).wait_until_free(common, num_blocks);
    ptx::cluster_arrive_release();
  } else {
    ptx::named_barrier_sync(kSumsReady, 256);
    ptx::cluster_wait_acquire();
    scores.finish(args, num_blocks);
    if (thread < 32) weigh_parts(common, args, tile(), thread);
    ptx::named_barrier_arrive(kFactorReady, kThree);
  }
}

}  // namespace dsa_ops::sparse_mla::fp8
