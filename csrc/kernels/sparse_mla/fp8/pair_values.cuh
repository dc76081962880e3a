// Warpgroups 1 and 2 of a thread block of a pair: 128 output dims each, of all 128 heads.
//
// As in values.cuh, but a lane holds four neighbouring dims: the heads of both blocks are the N of
// a product, so that a token's bytes are loaded, converted and scaled once for all of them.
#pragma once
#include "kernels/sparse_mla/fp8/pair_scores.cuh"
#include "kernels/sparse_mla/fp8/tokens.cuh"
#include "kernels/sparse_mla/fp8/value_fragments.cuh"

namespace dsa_ops::sparse_mla::fp8 {

struct PairValues {
  static constexpr int kSteps = kBlockTokens / 16;

  SharedStorage<PairTile>& shared;
  uint32_t const even, odd;  // offsets of the lane's dims of two tokens in a stage
  uint32_t const scales;     // offset of its value scales
  RingPlace<PairTile::kStages> place;
  SlotPlace source{0};
  uint32_t tiles = 0;
  float output[2][kPairHeads / 2];

  __device__ PairValues(SharedStorage<PairTile>& storage, int thread)
      : shared(storage),
        even(token_of_row((thread & 3) * 2) * kTokenPitch + first_dim()),
        odd(token_of_row((thread & 3) * 2 + 1) * kTokenPitch + first_dim()),
        scales(((first_dim() >> 7 & 1) * kBlockTokens + (thread & 3) * 4) * 2) {}

  // The first of the four dims that this lane holds: two rows of both tiles.
  static __device__ __forceinline__ uint32_t first_dim() {
    return ptx::cluster_rank() * 256 + (static_cast<uint32_t>(thread_index() - 128) >> 2) * 4;
  }

  __device__ __forceinline__ void rescale(int buffer) {
    auto const& rescale = shared.rescale[buffer];
    if ((rescale[0].any | rescale[1].any) == 0) return;
#pragma unroll
    for (int block = 0; block < 2; ++block) {
      if (rescale[block].any) {
        scale_heads(output, block * PairTile::kHeads / 8, rescale[block].factor);
      }
    }
  }

  __device__ __forceinline__ void release_in_both(uint64_t* barrier) {
    __syncwarp();
    uint32_t const lane = thread_index() & 31;
    if (lane < 2) {
      ptx::mbarrier_arrive_cluster(ptx::map_to_rank(ptx::shared_address(barrier), lane));
    }
  }

  // Of a step's 128 heads: core matrices of 8 heads, 32 bytes each, 256 apart.
  static __device__ __forceinline__ uint64_t probability_descriptor(uint32_t address) {
    return (uint64_t{3} << 62) | (uint64_t{256 >> 4} << 32) | (uint64_t{1} << 16) |
           ((address & 0x3FFFF) >> 4);
  }

  // One block. Held back, with the first fragments in place, until the next block's scores are
  // done: see values.cuh.
  __device__ __forceinline__ void multiply(bool held_back) {
    int const stage = place.stage;
    uint32_t const token = ptx::shared_address(shared.token[stage]);
    uint32_t const scale = ptx::shared_address(shared.value_scale[stage]) + scales;
    constexpr uint64_t kStepBytes = sizeof(shared.probability[0][0]);
    StepTokens<1> raw;
    uint32_t fragments[2][4];
    raw.load(token + even, token + odd, scale, 0);
    raw.convert(0, fragments[0]);
    if (held_back) wait_for_next_scores(shared, place);
    SlotPlace second = source;
    second.advance<1>();
    ptx::mbarrier_wait(&shared.probability_full[source.slot], source.parity);
    ptx::mbarrier_wait(&shared.probability_full[second.slot], second.parity);
    uint64_t const first_half =
        probability_descriptor(ptx::shared_address(shared.probability[source.slot]));
    uint64_t const second_half =
        probability_descriptor(ptx::shared_address(shared.probability[second.slot]));
    rescale(place.buffer());
    for (auto& tile : output) pin_registers(tile);
#pragma unroll
    for (int unit = 0; unit < 2 * kSteps; ++unit) {
      int const step = unit >> 1, tile = unit & 1;
      if (unit > 0) ptx::wgmma_wait<0>();
      if (unit == kSteps) {
        release_in_both(&shared.probability_empty[source.slot]);
      }
      ptx::wgmma_fence();
      wgmma_rs<PairTile::ValueMma>(
          output[tile], fragments[tile],
          (step < 2 ? first_half : second_half) + (step & 1) * (kStepBytes >> 4), true);
      ptx::wgmma_commit();
      if (tile == 1 && step + 1 < kSteps) {
        raw.convert(0, fragments[0]);
      } else if (tile == 0) {
        raw.convert(1, fragments[1]);
        if (step + 1 < kSteps) {
          raw.load(token + even, token + odd, scale, step + 1);
        } else {
          release(&shared.token_empty[stage]);
        }
      }
    }
    ptx::wgmma_wait<0>();
    for (auto& tile : output) pin_registers(tile);
    release_in_both(&shared.probability_empty[second.slot]);
    source.advance<2>();
  }

  // One tile.
  __device__ void run(int num_blocks) {
    clear(output);
#pragma unroll 1
    for (int block = 0; block < num_blocks; ++block) {
      wait_for_tokens(shared, place);
      multiply(block + 1 < num_blocks);
      place.advance();
    }
  }

  // Normalised, in bf16.
  __device__ __forceinline__ void store(KernelArgs const& args, int64_t row) {
    ptx::mbarrier_wait_cluster(&shared.factor_full, tiles++ & 1);
    int const first_head = quad_lane() * 2;
    uint16_t* target =
        args.out + row * args.out_row_stride + first_head * args.out_head_stride + first_dim();
#pragma unroll
    for (int column = 0; column < kPairHeads / 4; ++column) {
      int const head = first_head + (column >> 1) * 8 + (column & 1);
      int const i = (column >> 1) * 4 + (column & 1);
      if (head < args.num_heads) {
        float const factor = shared.output_factor[head];
        *reinterpret_cast<uint2*>(target) =
            make_uint2(ptx::pack_bf16(output[0][i] * factor, output[0][i + 2] * factor),
                       ptx::pack_bf16(output[1][i] * factor, output[1][i + 2] * factor));
      }
      target += (column & 1 ? 7 : 1) * args.out_head_stride;
    }
    release_in_both(&shared.factor_empty);
  }
};

}  // namespace dsa_ops::sparse_mla::fp8
