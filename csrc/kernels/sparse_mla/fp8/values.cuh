// Warpgroups 1 and 2 of the FP8-cache kernel: 256 output dims each.
//
// O^T = V^T . P^T: the dims are the rows of the product. A lane holds eight neighbouring dims of
// every token it takes, and words of two tokens' bytes, interleaved, are its fragments.
#pragma once
#include "device/wgmma.cuh"
#include "kernels/sparse_mla/fp8/few_parts.cuh"
#include "kernels/sparse_mla/fp8/parts.cuh"
#include "kernels/sparse_mla/fp8/tile.cuh"
#include "kernels/sparse_mla/fp8/tokens.cuh"
#include "kernels/sparse_mla/fp8/value_fragments.cuh"

namespace dsa_ops::sparse_mla::fp8 {

template <class HeadTile>
struct ValueWarpgroup {
  static constexpr int kStages = HeadTile::kStages;
  static constexpr int kColumns = HeadTile::kColumns;
  static constexpr int kSteps = kBlockTokens / 16;
  // Few heads leave registers for a step's bytes on their way and products of two units in flight.
  static constexpr bool kDeep = HeadTile::kHeads < 64;

  SharedStorage<HeadTile>& shared;
  uint32_t const even, odd;  // offsets of the lane's dims of two tokens in a stage
  uint32_t const scales;     // offset of its value scales
  RingPlace<kStages> place;
  float output[4][2 * kColumns];

  __device__ ValueWarpgroup(SharedStorage<HeadTile>& storage, int thread)
      : shared(storage),
        even(token_of_row((thread & 3) * 2) * kTokenPitch + first_dim()),
        odd(token_of_row((thread & 3) * 2 + 1) * kTokenPitch + first_dim()),
        scales(((first_dim() >> 7) * kBlockTokens + (thread & 3) * 4) * 2) {}

  // The first of the eight dims that this lane holds: two rows of every tile.
  static __device__ __forceinline__ uint32_t first_dim() {
    return (static_cast<uint32_t>(thread_index() - 128) >> 2) * 8;
  }

  __device__ __forceinline__ void rescale(int buffer) {
    if (shared.rescales[buffer]) scale_heads(output, 0, shared.rescale[buffer]);
  }

  __device__ __forceinline__ void multiply(int stage, int buffer, uint32_t probability_parity) {
    ptx::mbarrier_wait(&shared.probability_full[buffer], probability_parity);
    rescale(buffer);
    for (auto& tile : output) pin_registers(tile);
    uint32_t const token = ptx::shared_address(shared.token[stage]);
    uint32_t const scale = ptx::shared_address(shared.value_scale[stage]) + scales;
    uint64_t const probability =
        k_major_descriptor(ptx::shared_address(shared.probability[buffer]));
    StepTokens<2> raw[kDeep ? 2 : 1];
    uint32_t fragments[2][2][4];
    raw[0].load(token + even, token + odd, scale, 0);
#pragma unroll
    for (int unit = 0; unit < 2 * kSteps; ++unit) {
      int const step = unit >> 1, half = unit & 1;
      bool const loads = half == (kDeep ? 0 : 1) && step + 1 < kSteps;
      StepTokens<2>& next = raw[kDeep ? (step + 1) & 1 : 0];
      if (kDeep && loads) next.load(token + even, token + odd, scale, step + 1);
      if (kDeep && unit > 1) ptx::wgmma_wait<1>();
      raw[kDeep ? step & 1 : 0].convert_two(half * 2, fragments[half]);
      if (unit + 1 == 2 * kSteps) release(&shared.token_empty[stage]);
      if (!kDeep && loads) next.load(token + even, token + odd, scale, step + 1);
      if (!kDeep && unit > 0) ptx::wgmma_wait<0>();
      ptx::wgmma_fence();
#pragma unroll
      for (int tile = 0; tile < 2; ++tile) {
        wgmma_rs<typename HeadTile::LatentMma>(output[half * 2 + tile], fragments[half][tile],
                                               probability + step * 2, true);
      }
      ptx::wgmma_commit();
    }
    ptx::wgmma_wait<0>();
    for (auto& tile : output) pin_registers(tile);
    release(&shared.probability_empty[buffer]);
  }

  // One tile.
  __device__ void run(int num_blocks) {
    clear(output);
#pragma unroll 1
    for (int block = 0; block < num_blocks; ++block) {
      wait_for_tokens(shared, place);
      // The products run while warpgroup 0 turns the next block's scores into probabilities, and
      // leave the tensor cores to it while it multiplies: its chain is the longest. Not in short
      // lists of few heads, which wait for tokens.
      bool const gated = HeadTile::kHeads == 64 || num_blocks > kStages;
      if (gated && block + 1 < num_blocks) wait_for_next_scores(shared, place);
      multiply(place.stage, place.buffer(), place.buffer_parity());
      place.advance();
    }
  }

  // Normalised, in bf16. A lane's eight dims of a head are neighbours, 16 bytes.
  __device__ __forceinline__ void store(KernelArgs const& args, Tile const& tile) {
    int const first_head = quad_lane() * 2;
    uint16_t* target = args.out + tile.row * args.out_row_stride +
                       (tile.first_head + first_head) * args.out_head_stride + first_dim();
#pragma unroll
    for (int column = 0; column < kColumns; ++column) {
      int const head = first_head + (column >> 1) * 8 + (column & 1);
      int const i = (column >> 1) * 4 + (column & 1);
      if (head < tile.heads) {
        float const factor = shared.output_factor[head];
        uint32_t words[4];
#pragma unroll
        for (int pair = 0; pair < 4; ++pair) {
          words[pair] = ptx::pack_bf16(output[pair][i] * factor, output[pair][i + 2] * factor);
        }
        *reinterpret_cast<uint4*>(target) = make_uint4(words[0], words[1], words[2], words[3]);
      }
      target += (column & 1 ? 7 : 1) * args.out_head_stride;
    }
  }

  // Split::kTwo and kThree: to each other split the columns that it joins.
  template <int kSplits>
  __device__ __forceinline__ void push_columns(KernelArgs const& args, int split) {
    using Parts = FewParts<HeadTile, kSplits>;
    int const thread = thread_index() & 127, warpgroup = (thread_index() >> 7) - 1;
    uint32_t const barrier = ptx::shared_address(&shared.parts_full);
    float const scale = ptx::power_of_two(-part_exponent(args));
#pragma unroll
    for (int column = 0; column < kColumns; ++column) {
      int const to = kSplits == 2 ? split ^ 1 : Parts::joins(column);
      if (to == split) continue;
      int const i = (column >> 1) * 4 + (column & 1);
      uint32_t const target =
          Parts::address(shared, args, Parts::place(split, to), warpgroup, column, thread);
      ptx::store_async(
          ptx::map_to_rank(target, to),
          pack_entries(make_float4(output[0][i], output[0][i + 2], output[1][i], output[1][i + 2]),
                       make_float4(output[2][i], output[2][i + 2], output[3][i], output[3][i + 2]),
                       scale),
          ptx::map_to_rank(barrier, to));
    }
  }

  // Once the weights are there: the columns that this split joins, to the output.
  template <int kSplits>
  __device__ __forceinline__ void join_columns(KernelArgs const& args, Tile const& tile) {
    using Parts = FewParts<HeadTile, kSplits>;
    int const thread = thread_index() & 127, warpgroup = (thread_index() >> 7) - 1;
    int const first_head = quad_lane() * 2;
    uint16_t* target = args.out + tile.row * args.out_row_stride +
                       (tile.first_head + first_head) * args.out_head_stride + first_dim();
    ptx::mbarrier_wait_cluster(&shared.parts_full, 0);
#pragma unroll
    for (int column = 0; column < kColumns; ++column) {
      int const head = first_head + (column >> 1) * 8 + (column & 1);
      int const i = (column >> 1) * 4 + (column & 1);
      if (kSplits == 2 || Parts::joins(column) == tile.split) {
        float const own = shared.output_factor[head];
        float4 low = make_float4(output[0][i] * own, output[0][i + 2] * own, output[1][i] * own,
                                 output[1][i + 2] * own);
        float4 high = make_float4(output[2][i] * own, output[2][i + 2] * own, output[3][i] * own,
                                  output[3][i + 2] * own);
#pragma unroll
        for (int place = 0; place < Parts::kOthers; ++place) {
          uint4 const part =
              ptx::load_shared_16(Parts::address(shared, args, place, warpgroup, column, thread));
          float const weight = shared.peer[place * HeadTile::kHeads + head].x;
          add_weighted(low, weight, make_uint2(part.x, part.y));
          add_weighted(high, weight, make_uint2(part.z, part.w));
        }
        if (head < tile.heads) {
          *reinterpret_cast<uint4*>(target) =
              make_uint4(ptx::pack_bf16(low.x, low.y), ptx::pack_bf16(low.z, low.w),
                         ptx::pack_bf16(high.x, high.y), ptx::pack_bf16(high.z, high.w));
        }
      }
      target += (column & 1 ? 7 : 1) * args.out_head_stride;
    }
  }

  // As it is, to where it is joined.
  template <bool kPushes>
  __device__ __forceinline__ void hand_over_part(KernelArgs const& args, int split) {
    int const first_head = quad_lane() * 2;
    uint32_t const quarter = first_dim() >> 2;
    PartTargets<HeadTile, kPushes> const targets(shared, args, split);
#pragma unroll
    for (int column = 0; column < kColumns; ++column) {
      int const head = first_head + (column >> 1) * 8 + (column & 1);
      int const i = (column >> 1) * 4 + (column & 1);
      targets.put(head, quarter,
                  make_float4(output[0][i], output[0][i + 2], output[1][i], output[1][i + 2]),
                  make_float4(output[2][i], output[2][i + 2], output[3][i], output[3][i + 2]));
    }
  }
};

}  // namespace dsa_ops::sparse_mla::fp8
