// LayerNorm, RoPE and the Hadamard transform of a 128-vector held by 8 lanes, in fp32. Products and
// sums are rounded one by one (no fused multiply-add), in the order of the PyTorch implementation.
#pragma once
#include "kernels/caches/vector.cuh"

namespace dsa_ops::caches {

inline constexpr int kIndexDim = kLanesPerVector * kValuesPerLane;
inline constexpr int kRopePairs = 32;  // of dims [0, 64), which lanes 0 ... 3 hold
inline constexpr int kRopeLanes = 2 * kRopePairs / kValuesPerLane;

// Four consecutive floats of a row that need not be aligned.
__device__ __forceinline__ float4 load_float4(float const* src) {
  if (reinterpret_cast<uintptr_t>(src) % 16 == 0) return *reinterpret_cast<float4 const*>(src);
  return make_float4(src[0], src[1], src[2], src[3]);
}

__device__ __forceinline__ void layer_norm(float (&values)[kValuesPerLane], int lane,
                                           float const* weight, float const* bias, float eps) {
  float const mean = __fdiv_rn(vector_sum(values), float{kIndexDim});
  float squares[kValuesPerLane];
#pragma unroll
  for (int i = 0; i < kValuesPerLane; ++i) {
    values[i] = __fsub_rn(values[i], mean);
    squares[i] = __fmul_rn(values[i], values[i]);
  }
  float const variance = __fdiv_rn(vector_sum(squares), float{kIndexDim});
  float const inverse = __frsqrt_rn(variance + eps);
#pragma unroll
  for (int i = 0; i < kValuesPerLane; i += 4) {
    float4 const w = load_float4(weight + lane * kValuesPerLane + i);
    float4 const b = load_float4(bias + lane * kValuesPerLane + i);
    values[i] = __fadd_rn(__fmul_rn(__fmul_rn(values[i], inverse), w.x), b.x);
    values[i + 1] = __fadd_rn(__fmul_rn(__fmul_rn(values[i + 1], inverse), w.y), b.y);
    values[i + 2] = __fadd_rn(__fmul_rn(__fmul_rn(values[i + 2], inverse), w.z), b.z);
    values[i + 3] = __fadd_rn(__fmul_rn(__fmul_rn(values[i + 3], inverse), w.w), b.w);
  }
}

// a * cos + b * sin
__device__ __forceinline__ float rotate(float a, float cos, float b, float sin) {
  return __fadd_rn(__fmul_rn(a, cos), __fmul_rn(b, sin));
}

// Pairs (2i, 2i + 1): lane l holds pairs [8 l, 8 l + 8).
__device__ __forceinline__ void rope_interleaved(float (&values)[kValuesPerLane], int lane,
                                                 float const* cos_sin) {
  if (lane >= kRopeLanes) return;
#pragma unroll
  for (int i = 0; i < kValuesPerLane; i += 8) {
    float const* row = cos_sin + (lane * kValuesPerLane + i) / 2;
    float4 const cosines = load_float4(row);
    float4 const sines = load_float4(row + kRopePairs);
    float const cos[4] = {cosines.x, cosines.y, cosines.z, cosines.w};
    float const sin[4] = {sines.x, sines.y, sines.z, sines.w};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      float const first = values[i + 2 * j];
      float const second = values[i + 2 * j + 1];
      values[i + 2 * j] = rotate(first, cos[j], second, -sin[j]);
      values[i + 2 * j + 1] = rotate(second, cos[j], first, sin[j]);
    }
  }
}

// Pairs (i, i + 32): lanes 0 and 1 hold the first members, lanes 2 and 3 the second ones. Every
// lane of the warp calls this.
__device__ __forceinline__ void rope_halves(float (&values)[kValuesPerLane], int lane,
                                            float const* cos_sin) {
  float const sign = lane < kRopeLanes / 2 ? -1.0f : 1.0f;
  float const* row = cos_sin + lane % (kRopeLanes / 2) * kValuesPerLane;
#pragma unroll
  for (int i = 0; i < kValuesPerLane; i += 4) {
    float partner[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      partner[j] = __shfl_xor_sync(kAllLanes, values[i + j], kRopeLanes / 2);
    }
    if (lane < kRopeLanes) {
      float4 const cosines = load_float4(row + i);
      float4 const sines = load_float4(row + kRopePairs + i);
      values[i] = rotate(values[i], cosines.x, partner[0], sign * sines.x);
      values[i + 1] = rotate(values[i + 1], cosines.y, partner[1], sign * sines.y);
      values[i + 2] = rotate(values[i + 2], cosines.z, partner[2], sign * sines.z);
      values[i + 3] = rotate(values[i + 3], cosines.w, partner[3], sign * sines.w);
    }
  }
}

// Walsh-Hadamard transform in Sylvester order, scaled by 128^-0.5: butterflies of stride 1 ... 8
// within a lane, 16 ... 64 between lanes. Every lane of the warp calls this.
__device__ __forceinline__ void hadamard(float (&values)[kValuesPerLane], int lane) {
#pragma unroll
  for (int stride = 1; stride < kValuesPerLane; stride *= 2) {
#pragma unroll
    for (int i = 0; i < kValuesPerLane; ++i) {
      if (i & stride) continue;
      float const low = values[i];
      float const high = values[i + stride];
      values[i] = __fadd_rn(low, high);
      values[i + stride] = __fsub_rn(low, high);
    }
  }
#pragma unroll
  for (int step = 1; step < kLanesPerVector; step *= 2) {
#pragma unroll
    for (float& value : values) {
      float const other = __shfl_xor_sync(kAllLanes, value, step);
      value = lane & step ? __fsub_rn(other, value) : __fadd_rn(value, other);
    }
  }
  constexpr float kScale = 0.08838834764831845f;  // 128^-0.5
#pragma unroll
  for (float& value : values) value = __fmul_rn(value, kScale);
}

// RoPE and the optional Hadamard transform, as the fields of the params say. Every lane of the warp
// calls this; positions outside the cache clamp.
template <class Params>
__device__ __forceinline__ void rotate_index_vector(float (&values)[kValuesPerLane], int lane,
                                                    Params const& params, int64_t position) {
  position = max(min(position, params.num_positions - 1), int64_t{0});
  float const* cos_sin = params.cos_sin_cache + position * params.cos_sin_stride;
  if (params.interleaved) {
    rope_interleaved(values, lane, cos_sin);
  } else {
    rope_halves(values, lane, cos_sin);
  }
  if (params.hadamard) hadamard(values, lane);
}

}  // namespace dsa_ops::caches
