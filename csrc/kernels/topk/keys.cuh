// Keys: unsigned integers in the order of the logits.
#pragma once
#include <cstdint>

namespace dsa_ops::topk_sm90 {

// The key of a logit: unsigned, in the logits' order, NaN as -inf and -0 as +0.
// Written in PTX because no compiler flag may flush a subnormal or drop the canonicalisation.
__device__ __forceinline__ uint32_t key_of(float logit) {
  float canonical;
  asm("{\n"
      ".reg .f32 t;\n"
      "add.rn.f32 t, %1, 0f00000000;\n"
      "max.f32 %0, t, 0fFF800000;\n"
      "}"
      : "=f"(canonical)
      : "f"(logit));
  uint32_t const bits = __float_as_uint(canonical);
  uint32_t const sign = static_cast<uint32_t>(static_cast<int32_t>(bits) >> 31);
  return bits ^ (sign | 0x80000000u);
}

// The logit of a key; a key that no logit has gives the next worse logit, or NaN above +inf.
__device__ __forceinline__ float logit_of(uint32_t key) {
  return __uint_as_float(key & 0x80000000u ? key & 0x7FFFFFFFu : ~key);
}

inline constexpr uint32_t kNoKey = 0;               // under every logit's key
inline constexpr uint32_t kZeroKey = 0x80000000u;   // of both zeros
inline constexpr uint32_t kWorstKey = 0x007FFFFFu;  // of -inf and NaN
inline constexpr uint32_t kBestKey = 0xFF800000u;   // of +inf

}  // namespace dsa_ops::topk_sm90
