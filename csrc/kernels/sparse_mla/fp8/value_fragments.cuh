// What a lane of warpgroups 1 and 2 takes of a block of tokens: neighbouring dims of four tokens a
// step, and their scales, as fragments of V^T; and its accumulators.
#pragma once
#include "device/ptx/convert.cuh"
#include "device/ptx/shared.cuh"
#include "kernels/sparse_mla/fp8/tile.cuh"

namespace dsa_ops::sparse_mla::fp8 {

// Two of four dims of two tokens to registers of (first, second) in f16, times their scales.
__device__ __forceinline__ void convert_dims(uint32_t first, uint32_t second, uint32_t scale,
                                             int half, uint32_t& upper, uint32_t& lower) {
  ptx::unpack_e4m3(__byte_perm(first, second, half == 0 ? 0x5140 : 0x7362), upper, lower);
  upper = ptx::multiply_f16(upper, scale);
  lower = ptx::multiply_f16(lower, scale);
}

// kWords words of four dims of the tokens k = 2 c, 2 c + 1, 2 c + 8, 2 c + 9 of a step; c is the
// lane of four.
template <int kWords>
struct StepTokens {
  uint32_t bytes[4][kWords];
  uint2 scale;  // of tokens 0, 1 and 2, 3

  static __device__ __forceinline__ void load_dims(uint32_t (&words)[kWords], uint32_t address) {
    if constexpr (kWords == 1) {
      words[0] = ptx::load_shared_4(address);
    } else {
      static_assert(kWords == 2);
      uint2 const both = ptx::load_shared_8(address);
      words[0] = both.x, words[1] = both.y;
    }
  }

  // From the addresses of the lane's dims of the first two tokens of a block, and of its scales.
  __device__ __forceinline__ void load(uint32_t even, uint32_t odd, uint32_t scales, int step) {
    uint32_t const offset = step * 16 * kTokenPitch;
    load_dims(bytes[0], even + offset);
    load_dims(bytes[1], odd + offset);
    load_dims(bytes[2], even + offset + 8 * kTokenPitch);
    load_dims(bytes[3], odd + offset + 8 * kTokenPitch);
    scale = ptx::load_shared_8(scales + step * 32);
  }

  // Of a tile of 64 dims, of which the lane has two: the half of a fragment that tokens 0, 1 or 2,
  // 3 are.
  __device__ __forceinline__ void convert_half(int tile, int half, uint32_t (&fragment)[4]) const {
    int const word = tile >> 1;
    convert_dims(bytes[2 * half][word], bytes[2 * half + 1][word], half ? scale.y : scale.x,
                 tile & 1, fragment[2 * half], fragment[2 * half + 1]);
  }

  __device__ __forceinline__ void convert(int tile, uint32_t (&fragment)[4]) const {
    convert_half(tile, 0, fragment);
    convert_half(tile, 1, fragment);
  }

  // Of a tile and the next.
  __device__ __forceinline__ void convert_two(int tile, uint32_t (&fragments)[2][4]) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      convert_half(tile, half, fragments[0]);
      convert_half(tile + 1, half, fragments[1]);
    }
  }
};

__device__ __forceinline__ uint32_t quad_lane() { return thread_index() & 3; }

template <class HeadTile>
__device__ __forceinline__ void wait_for_tokens(SharedStorage<HeadTile>& shared,
                                                RingPlace<HeadTile::kStages> const& place) {
  ptx::mbarrier_wait(&shared.token_full[place.stage], place.stage_parity);
  ptx::mbarrier_wait(&shared.value_scale_full[place.stage], place.stage_parity);
}

// Of the block after `place`.
template <class HeadTile>
__device__ __forceinline__ void wait_for_next_scores(SharedStorage<HeadTile>& shared,
                                                     RingPlace<HeadTile::kStages> const& place) {
  uint32_t const next = place.block + 1;
  ptx::mbarrier_wait(&shared.scores_done[next & 1], next >> 1 & 1);
}

template <int kDimTiles, int kValues>
__device__ __forceinline__ void clear(float (&output)[kDimTiles][kValues]) {
#pragma unroll
  for (auto& tile : output) {
#pragma unroll
    for (float& value : tile) value = 0.f;
  }
}

// Multiplies the accumulators of the heads from tile `first_tile` of 8 on by their factors.
template <int kHeads, int kDimTiles, int kValues>
__device__ __forceinline__ void scale_heads(float (&output)[kDimTiles][kValues], int first_tile,
                                            float const (&factors)[kHeads]) {
#pragma unroll
  for (int tile = 0; tile < kHeads / 8; ++tile) {
    float2 const factor = *reinterpret_cast<float2 const*>(&factors[tile * 8 + quad_lane() * 2]);
#pragma unroll
    for (auto& dims : output) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        dims[(first_tile + tile) * 4 + i] *= (i & 1) ? factor.y : factor.x;
      }
    }
  }
}

}  // namespace dsa_ops::sparse_mla::fp8
