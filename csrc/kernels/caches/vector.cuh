// Vectors of 128 values held by 8 neighbouring lanes of a warp: lane i of the 8 holds values
// [16 i, 16 i + 16), which are 32 bytes of bf16 (two 16-byte accesses) or 16 bytes of e4m3 (one).
// A warp holds four such vectors; an MLA latent of 512 values is four, with one scale each.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include <cfloat>
#include <cstdint>

#include "kernels/caches/entry.h"

namespace dsa_ops::caches {

inline constexpr int kWarpsPerBlock = kThreads / 32;
inline constexpr int kLanesPerVector = 8;
inline constexpr int kValuesPerLane = 16;
inline constexpr int kVectorsPerBlock = kThreads / kLanesPerVector;
inline constexpr uint32_t kAllLanes = 0xFFFFFFFFu;

// The vector a lane works on. Lanes past the end take the last vector along, so that whole warps
// meet in every shuffle, and are not active: they must not store.
struct VectorLane {
  int64_t vector;
  int lane;  // 0 ... 7
  bool active;
};

__device__ __forceinline__ VectorLane vector_lane(int64_t num_vectors) {
  int64_t const vector =
      int64_t{blockIdx.x} * kVectorsPerBlock + static_cast<int>(threadIdx.x) / kLanesPerVector;
  return {min(vector, num_vectors - 1), static_cast<int>(threadIdx.x) % kLanesPerVector,
          vector < num_vectors};
}

// Index of the warp over the grid, for kernels that give a whole warp to a row.
__device__ __forceinline__ int64_t warp_index() {
  return int64_t{blockIdx.x} * kWarpsPerBlock + static_cast<int>(threadIdx.x) / 32;
}

__device__ __forceinline__ void* byte_offset(void* base, int64_t bytes) {
  return static_cast<char*>(base) + bytes;
}
__device__ __forceinline__ void const* byte_offset(void const* base, int64_t bytes) {
  return static_cast<char const*>(base) + bytes;
}

// Widens the 8 bf16 values of 16 bytes, exactly.
__device__ __forceinline__ void unpack_bf16(uint4 packed, float* values) {
  uint32_t const words[4] = {packed.x, packed.y, packed.z, packed.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    values[2 * i] = __uint_as_float(words[i] << 16);
    values[2 * i + 1] = __uint_as_float(words[i] & 0xFFFF0000u);
  }
}

__device__ __forceinline__ uint4 pack_bf16(float const* values) {
  uint32_t words[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    __nv_bfloat162 const pair = __floats2bfloat162_rn(values[2 * i], values[2 * i + 1]);
    words[i] = *reinterpret_cast<uint32_t const*>(&pair);
  }
  return make_uint4(words[0], words[1], words[2], words[3]);
}

// `src` is the lane's first value and 16-byte aligned.
__device__ __forceinline__ void load_bf16(__nv_bfloat16 const* src,
                                          float (&values)[kValuesPerLane]) {
  uint4 const* words = reinterpret_cast<uint4 const*>(src);
  unpack_bf16(words[0], values);
  unpack_bf16(words[1], values + 8);
}

__device__ __forceinline__ float max_or_nan(float a, float b) {
  float result;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
  return result;
}

// Sum and maximum over the vector, in each of its 8 lanes. The order is fixed.
__device__ __forceinline__ float vector_sum(float const (&values)[kValuesPerLane]) {
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < kValuesPerLane; ++i) sum += values[i];
#pragma unroll
  for (int step = 1; step < kLanesPerVector; step *= 2) {
    sum += __shfl_xor_sync(kAllLanes, sum, step);
  }
  return sum;
}

// The largest magnitude; NaN when any value is NaN, so that the vector's scale shows it.
__device__ __forceinline__ float vector_amax(float const (&values)[kValuesPerLane]) {
  float amax = 0.0f;
#pragma unroll
  for (int i = 0; i < kValuesPerLane; ++i) amax = max_or_nan(amax, fabsf(values[i]));
#pragma unroll
  for (int step = 1; step < kLanesPerVector; step *= 2) {
    amax = max_or_nan(amax, __shfl_xor_sync(kAllLanes, amax, step));
  }
  return amax;
}

// s = max(amax, 1e-4) / 448, rounded up to a power of two when ue8m0.
__device__ __forceinline__ float index_scale(float amax, bool ue8m0) {
  float const scale = __fdiv_rn(max_or_nan(amax, 1e-4f), 448.0f);
  // Adding the mantissa mask carries into the exponent unless the mantissa is zero. Infinity maps
  // to itself; NaN would wrap around.
  if (!ue8m0 || isnan(scale)) return scale;
  return __uint_as_float((__float_as_uint(scale) + 0x007FFFFFu) & 0x7F800000u);
}

// s = max(amax / 448, FLT_MIN).
__device__ __forceinline__ float mla_scale(float amax) {
  return max_or_nan(__fdiv_rn(amax, 448.0f), FLT_MIN);
}

// e4m3(clamp(x / scale)), bit for bit the IEEE quotient. A quotient by a power of two is the same
// number as the product with its reciprocal, which is cheaper.
__device__ __forceinline__ uint4 quantize(float const (&values)[kValuesPerLane], float scale,
                                          bool power_of_two) {
  float const reciprocal = __frcp_rn(scale);
  uint32_t words[4] = {};
#pragma unroll
  for (int i = 0; i < kValuesPerLane; i += 2) {
    float2 const quotients =
        power_of_two
            ? make_float2(__fmul_rn(values[i], reciprocal), __fmul_rn(values[i + 1], reciprocal))
            : make_float2(__fdiv_rn(values[i], scale), __fdiv_rn(values[i + 1], scale));
    uint32_t const pair = __nv_cvt_float2_to_fp8x2(quotients, __NV_SATFINITE, __NV_E4M3);
    words[i / 4] |= pair << (8 * (i % 4));
  }
  return make_uint4(words[0], words[1], words[2], words[3]);
}

// Widens 16 e4m3 values, exactly.
__device__ __forceinline__ void unpack_e4m3(uint4 packed, float (&values)[kValuesPerLane]) {
  uint32_t const words[4] = {packed.x, packed.y, packed.z, packed.w};
#pragma unroll
  for (int i = 0; i < kValuesPerLane; i += 2) {
    auto const pair = static_cast<__nv_fp8x2_storage_t>(words[i / 4] >> (8 * (i % 4)));
    float2 const widened = __half22float2(__half2(__nv_cvt_fp8x2_to_halfraw2(pair, __NV_E4M3)));
    values[i] = widened.x;
    values[i + 1] = widened.y;
  }
}

}  // namespace dsa_ops::caches
