// The FP8-cache kernel for splits of at most two blocks of tokens, joined in a cluster: few rows.
// Warpgroup 3 has issued every copy at once; then it scores the second block beside warpgroup 0,
// which scores the first. Parts go to a stage that no tokens take, so nobody waits for its readers.
//
// References still pass from the first block to the second, so that warpgroups 1 and 2 see what
// they see from one scoring warpgroup: the second waits for the first between its scores and their
// exponents, when those of the first are long settled.
#pragma once
#include "kernels/sparse_mla/fp8/gather.cuh"
#include "kernels/sparse_mla/fp8/kernel.cuh"

namespace dsa_ops::sparse_mla::fp8 {

inline constexpr int kShortBlocks = 2;

template <class HeadTile>
struct ShortStorage : SharedStorage<HeadTile> {
  static_assert(HeadTile::kStages > kShortBlocks);
  static constexpr int kHeads = HeadTile::kHeads;
  // By block, each of its own warpgroup: maxima and sums of its warps, what references are raised
  // by, and what its sums are relative to.
  float warp_maximum[kShortBlocks][4][kHeads];
  float warp_sum[kShortBlocks][4][kHeads];
  float raised[kShortBlocks][kHeads];
  float reference[kShortBlocks][kHeads];
  uint64_t settled;  // 1 arrival: the first block no longer changes a reference
  uint32_t seen;     // whether it has a token
};

template <class HeadTile>
struct ShortScores : ScoreWarpgroup<HeadTile, true> {
  using Base = ScoreWarpgroup<HeadTile, true>;
  using Scores = typename Base::Scores;
  using Base::kColumns;
  using Base::kTiles;
  static constexpr int kHeads = HeadTile::kHeads;

  ShortStorage<HeadTile>& storage;
  int const block;  // 0 or 1, also its stage and its place for probabilities

  __device__ ShortScores(ShortStorage<HeadTile>& storage_, int block_, int thread)
      : Base(storage_, thread), storage(storage_), block(block_) {}

  static __device__ __forceinline__ int own_thread() { return thread_index() & 127; }

  __device__ __forceinline__ int vote_barrier() const { return block ? kSecondVote : kScoreVote; }

  // To probabilities in f16 and the sums of a thread's own tokens.
  static __device__ __forceinline__ void exponentiate(Scores const& exponents,
                                                      TokenScales const (&token)[2],
                                                      uint32_t (&packed)[kColumns],
                                                      float (&sums)[kColumns]) {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      float4 const p = Base::exponentiate_tile(exponents, tile, packed);
      sums[tile * 2] = fmaf(p.z, token[1].inverse, p.x * token[0].inverse);
      sums[tile * 2 + 1] = fmaf(p.w, token[1].inverse, p.y * token[0].inverse);
    }
  }

  __device__ __forceinline__ void publish(Scores& scores, TokenScales const (&token)[2]) {
    int const thread = own_thread(), lane = thread & 31;
    if (block > 0) ptx::mbarrier_wait(&storage.settled, 0);
    bool const started = block > 0 && storage.seen != 0;
    float reference = thread < kHeads ? -storage.column[thread].y : 0.f;
    this->to_exponents(scores, token);
    float const maximum = Base::largest(scores);
    bool const raises = any_of_warpgroup(!started || maximum > kSlackLog2<true>, vote_barrier());
    if (raises) {
      typename Base::Raise const to{storage.warp_maximum[block], storage.raised[block],
                                    storage.rescale[block], vote_barrier(),
                                    0.f};  // of so short lists
      // Sums come later, each with the reference that it is relative to.
      reference += this->raise_references(scores, own_thread(), started, to, [](int, float2) {});
    }
    if (thread == 0) {
      storage.rescales[block] = raises && started;
      if (block == 0) {
        storage.seen = this->any_token(0);
        // Every thread of the warpgroup has read the references before a barrier of the vote.
        ptx::mbarrier_arrive(&storage.settled);
      }
    }
    uint32_t packed[kColumns];
    float sums[kColumns];
    exponentiate(scores, token, packed, sums);
    this->store_probabilities(block, packed);
    ptx::fence_proxy_async();
    release(&storage.probability_full[block]);
    Base::reduce_columns(sums, lane, [](float a, float b) { return a + b; });
    Base::store_columns(storage.warp_sum[block][this->warp], sums, lane);
    if (thread < kHeads) storage.reference[block][thread] = reference;
  }

  __device__ __forceinline__ void run() {
    ptx::mbarrier_wait(&storage.token_full[block], 0);
    Scores scores;
    TokenScales token[2];
    this->multiply(block, scores, token);
    publish(scores, token);
  }

  // The sum of a block's probabilities, relative to the row's last reference.
  __device__ __forceinline__ float sum_of(int which, int head, float reference) const {
    float const sum = Base::sum_of_warps(storage.warp_sum[which], head);
    // Before the first token a reference has no meaning.
    return sum == 0.f ? 0.f : sum * ptx::exp2_flushed(storage.reference[which][head] - reference);
  }

  // By warpgroup 0, once all sums are there.
  __device__ __forceinline__ void finish(KernelArgs const& args, int num_blocks) {
    int const head = own_thread();
    if (head >= kHeads) return;
    float const reference = -storage.column[head].y;
    float total = num_blocks > 0 ? sum_of(0, head, reference) : 0.f;
    if (num_blocks > 1) total += sum_of(1, head, reference);
    hand_over_sum<true>(storage, args, split_of_block(), head,
                        make_float2(total == 0.f ? -INFINITY : reference, total));
  }
};

// No setmaxnreg: 128 registers are enough for every role.
template <class HeadTile>
__global__ void __launch_bounds__(kThreads, 1)
    sm90_fp8_sparse_mla_short_kernel(__grid_constant__ const KernelArgs args) {
  extern __shared__ uint8_t raw_storage[];
  auto& storage = *reinterpret_cast<ShortStorage<HeadTile>*>(raw_storage);
  SharedStorage<HeadTile>& shared = storage;
  int const warpgroup = __shfl_sync(0xFFFFFFFFu, threadIdx.x >> 7, 0);
  int const thread = threadIdx.x & 127;
  constexpr int kThree = kThreads - 128;
  auto const tile = [&args] { return only_tile<HeadTile::kHeads>(args); };
  int32_t const first_entry = load_first_entry(args, blockIdx.y, split_of_block(), threadIdx.x);
  if (warpgroup == 1 || warpgroup == 2) {
    ptx::cluster_arrive_relaxed();
    load_query_tile<256>(shared, args, tile(), static_cast<int>(threadIdx.x) - 128);
    ptx::fence_proxy_async();
    ptx::named_barrier_arrive(kSecondQueryReady, kThree);
    ptx::named_barrier_sync(kQueryReady, kThree);
    ValueWarpgroup<HeadTile> values(shared, thread);
    ptx::cluster_wait_acquire();
    values.run(index_list(args, tile()).num_blocks);
    values.template hand_over_part<true>(args, tile().split);
    ptx::named_barrier_sync(kFactorReady, kThree);
    join_parts(shared, args, tile(), static_cast<int>(threadIdx.x) - 128);
    return;
  }
  int const block = warpgroup == 3;
  if (block == 1) {
    ptx::cluster_arrive_relaxed();
    RingPlace<HeadTile::kStages> place;
    gather_tokens<true>(shared, args, index_list(args, tile()), place, true, thread, first_entry);
    ptx::named_barrier_sync(kSecondQueryReady, kThree);
  } else {
    if (threadIdx.x == 0) {
      ptx::mbarrier_init(&storage.settled, 1);
      init_barriers(shared);
      expect_parts(shared, args, split_of_block());
    }
    __syncwarp();
    ptx::named_barrier_arrive(kBarriersReady, 256);
    ptx::cluster_arrive_relaxed();
    ptx::named_barrier_sync(kQueryReady, kThree);
    ptx::cluster_wait_acquire();
  }
  int const num_blocks = index_list(args, tile()).num_blocks;
  ShortScores<HeadTile> scores(storage, block, thread);
  if (block < num_blocks) scores.run();
  if (block == 1) {
    ptx::named_barrier_arrive(kSumsReady, 256);
  } else {
    ptx::named_barrier_sync(kSumsReady, 256);
    scores.finish(args, num_blocks);
    if (thread < 32) weigh_parts(shared, args, tile(), thread);
    ptx::named_barrier_arrive(kFactorReady, kThree);
  }
}

}  // namespace dsa_ops::sparse_mla::fp8
