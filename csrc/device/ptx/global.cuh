// Predicated access to global memory: what it stores or where it loads from is computed whether or
// not it does.
#pragma once
#include <cstdint>

namespace dsa_ops::ptx {

// Of memory that the kernel does not write; -1 without a load. Stays where it is.
__device__ __forceinline__ int32_t load_global_4(void const* source, bool loads) {
  int32_t value;
  asm volatile(
      "{\n"
      ".reg .pred loads;\n"
      "setp.ne.u32 loads, %2, 0;\n"
      "mov.b32 %0, -1;\n"
      "@loads ld.global.nc.b32 %0, [%1];\n"
      "}"
      : "=r"(value)
      : "l"(source), "r"(static_cast<uint32_t>(loads)));
  return value;
}

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
