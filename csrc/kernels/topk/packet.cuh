// 16 bytes of logits, a packet, and the bits of its logits as float32.
#pragma once
#include <cstdint>

#include "dsa_ops/topk.h"

namespace dsa_ops::topk_sm90 {

template <LogitsType kType>
struct Packet;

template <>
struct Packet<LogitsType::kFloat32> {
  using Element = uint32_t;
  using Quad = uint4;
  using Pair = uint2;
  static constexpr int kLogits = 4;
  static __device__ __forceinline__ float logit(Element element) {
    return __uint_as_float(element);
  }
  static __device__ __forceinline__ void unpack(uint4 raw, float* logits) {
    logits[0] = __uint_as_float(raw.x);
    logits[1] = __uint_as_float(raw.y);
    logits[2] = __uint_as_float(raw.z);
    logits[3] = __uint_as_float(raw.w);
  }
  static __device__ __forceinline__ void unpack_quad(Quad raw, float* logits) {
    unpack(raw, logits);
  }
  static __device__ __forceinline__ void unpack_pair(Pair raw, float* logits) {
    logits[0] = __uint_as_float(raw.x);
    logits[1] = __uint_as_float(raw.y);
  }
};

template <>
struct Packet<LogitsType::kBfloat16> {
  using Element = uint16_t;
  using Quad = uint2;
  using Pair = uint32_t;
  static constexpr int kLogits = 8;
  static __device__ __forceinline__ float logit(Element element) {
    return __uint_as_float(static_cast<uint32_t>(element) << 16);
  }
  static __device__ __forceinline__ void unpack(uint4 raw, float* logits) {
    uint32_t const words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      logits[2 * i] = __uint_as_float(words[i] << 16);
      logits[2 * i + 1] = __uint_as_float(words[i] & 0xFFFF0000u);
    }
  }
  static __device__ __forceinline__ void unpack_quad(Quad raw, float* logits) {
    logits[0] = __uint_as_float(raw.x << 16);
    logits[1] = __uint_as_float(raw.x & 0xFFFF0000u);
    logits[2] = __uint_as_float(raw.y << 16);
    logits[3] = __uint_as_float(raw.y & 0xFFFF0000u);
  }
  static __device__ __forceinline__ void unpack_pair(Pair raw, float* logits) {
    logits[0] = __uint_as_float(raw << 16);
    logits[1] = __uint_as_float(raw & 0xFFFF0000u);
  }
};

__device__ __forceinline__ uint4 load_packet(void const* address) {
  uint4 value;
  asm volatile("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
               : "l"(address)
               : "memory");
  return value;
}

// No candidate: a logit that no gate lets pass.
__device__ __forceinline__ float no_logit() { return __uint_as_float(0x7FFFFFFFu); }

}  // namespace dsa_ops::topk_sm90
