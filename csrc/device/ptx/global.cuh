// Predicated stores to global memory: what they store is computed whether or not they do.
#pragma once
#include <cstdint>

namespace dsa_ops::ptx {

__device__ __forceinline__ void store_global_4(void* target, uint32_t value, bool stores) {
  asm volatile(
      "{\n"
      ".reg .pred stores;\n"
      "setp.ne.u32 stores, %2, 0;\n"
      "@stores st.global.b32 [%0], %1;\n"
      "}" ::"l"(target),
      "r"(value), "r"(static_cast<uint32_t>(stores))
      : "memory");
}

__device__ __forceinline__ void store_global_8(void* target, uint2 value, bool stores) {
  asm volatile(
      "{\n"
      ".reg .pred stores;\n"
      "setp.ne.u32 stores, %3, 0;\n"
      "@stores st.global.v2.b32 [%0], {%1, %2};\n"
      "}" ::"l"(target),
      "r"(value.x), "r"(value.y), "r"(static_cast<uint32_t>(stores))
      : "memory");
}

}  // namespace dsa_ops::ptx
