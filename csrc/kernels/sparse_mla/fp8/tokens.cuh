// The order in which lanes hold the tokens of a block, and what they need of their scales.
#pragma once
#include <cstdint>

#include "device/ptx/convert.cuh"

namespace dsa_ops::sparse_mla::fp8 {

// The token of a block that row `row` of S^T holds, and that step row / 16 of O^T = V^T . P^T takes
// as its k = row % 16.
__device__ __forceinline__ int token_of_row(int row) {
  int const low = row & 7;
  return (row & ~7) + (low & 1 ? (low >> 1) + 2 : (low >> 1) + (low & 4));
}

// The other way round.
__device__ __forceinline__ int row_of_token(int token) {
  return (token & ~3) + ((token & 1) << 1) + ((token >> 1 ^ token >> 2) & 1);
}

// Where the scale of a row's token lies: a lane of warpgroups 1 and 2 takes the rows 2 c, 2 c + 1,
// 2 c + 8, 2 c + 9 of each 16, c = 0 ... 3, together.
__device__ __forceinline__ int value_scale_position(int row) {
  return (row & ~15) + ((row & 6) << 1) + ((row & 8) >> 2) + (row & 1);
}

// What a lane needs of a token's four scales. 2^exponent is the largest of them rounded down to a
// power of two. A scale below 2^-40 of the largest counts as that: it cannot show in a score, and
// every ratio is finite.
struct TokenScales {
  float ratio[2];  // scale g / scale g + 2, or scale g where groups have sums of their own
  float scale[2];  // 2 and 3
  float exponent;  // -inf masks the token
  float inverse;   // 2^-exponent

  // Returns scale `own` times 2^-exponent in f16.
  template <bool kOwnSums>
  __device__ __forceinline__ uint16_t read(uint4 const& bits, bool exists, int own) {
    float const s[4] = {__uint_as_float(bits.x), __uint_as_float(bits.y), __uint_as_float(bits.z),
                        __uint_as_float(bits.w)};
    float const largest = fmaxf(fmaxf(s[0], s[1]), fmaxf(s[2], s[3]));
    float const floor = fmaxf(largest * 0x1p-40f, 0x1p-126f);
    float const floored[4] = {fmaxf(s[0], floor), fmaxf(s[1], floor), fmaxf(s[2], floor),
                              fmaxf(s[3], floor)};
#pragma unroll
    for (int g = 0; g < 2; ++g) {
      ratio[g] = kOwnSums ? floored[g] : __fdividef(floored[g], floored[g + 2]);
      scale[g] = floored[g + 2];
    }
    int const biased = (__float_as_int(largest) >> 23) & 0xFF;
    int const power = min(max(biased - 127, -100), 100);
    inverse = ptx::power_of_two(-power);
    exponent = exists ? static_cast<float>(power) : -INFINITY;
    float const chosen = own < 2 ? (own == 0 ? s[0] : s[1]) : (own == 2 ? s[2] : s[3]);
    return static_cast<uint16_t>(ptx::pack_f16(chosen * inverse, 0.f));
  }
};

}  // namespace dsa_ops::sparse_mla::fp8
