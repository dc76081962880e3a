// Brings the query tile into shared memory: 64 heads by kHeadDim, 128B-swizzled panels, rows past
// the last head zero. For the FP8 cache the latent part becomes f16: each row is multiplied by the
// power of two that brings its largest magnitude to [2^14, 2^15), undone by query_scale.
#pragma once
#include "kernels/sparse_mla/producer.cuh"
#include "kernels/sparse_mla/tile.cuh"

namespace dsa_ops::sparse_mla {

__device__ __forceinline__ float bf16_low_to_float(uint32_t packed) {
  return __uint_as_float(packed << 16);
}

__device__ __forceinline__ float bf16_high_to_float(uint32_t packed) {
  return __uint_as_float(packed & 0xFFFF0000u);
}

__device__ __forceinline__ float largest_magnitude(uint4 const& v) {
  uint32_t const words[4] = {v.x, v.y, v.z, v.w};
  float largest = 0.f;
#pragma unroll
  for (uint32_t word : words) {
    largest =
        fmaxf(largest, fmaxf(fabsf(bf16_low_to_float(word)), fabsf(bf16_high_to_float(word))));
  }
  return largest;
}

__device__ __forceinline__ uint4 scaled_to_f16(uint4 const& v, float factor) {
  auto const scale = [factor](uint32_t word) {
    return pack_f16(bf16_low_to_float(word) * factor, bf16_high_to_float(word) * factor);
  };
  return make_uint4(scale(v.x), scale(v.y), scale(v.z), scale(v.w));
}

__device__ __forceinline__ uint4 scaled_to_bf16(uint4 const& v, float factor) {
  auto const scale = [factor](uint32_t word) {
    return pack_bf16(bf16_low_to_float(word) * factor, bf16_high_to_float(word) * factor);
  };
  return make_uint4(scale(v.x), scale(v.y), scale(v.z), scale(v.w));
}

// Four threads bring one row, all loads in flight before the first is used: at small batches their
// latency is a good part of the kernel.
template <class Source>
__device__ void load_queries(SharedStorage<Source>& shared, KernelArgs const& args,
                             Tile const& tile, int thread) {
  constexpr int kPerThread = Source::kHeadDim / 8 / 4;  // chunks of 16 bytes
  int const row = thread >> 2;
  int const quarter = thread & 3;
  TileRow const at(tile, row);
  auto const* source =
      reinterpret_cast<uint4 const*>(args.q + (tile.row + at.member) * args.q_row_stride +
                                     at.head * args.q_head_stride) +
      quarter;

  uint4 chunks[kPerThread];
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    chunks[i] = at.exists ? __ldg(source + 4 * i) : make_uint4(0, 0, 0, 0);
  }
  float factor = 1.f;
  if constexpr (Source::kFp8Cache) {
    float largest = 0.f;
#pragma unroll
    for (int i = 0; i < kPerThread; ++i) largest = fmaxf(largest, largest_magnitude(chunks[i]));
    largest = fmaxf(largest, __shfl_xor_sync(0xFFFFFFFFu, largest, 1));
    largest = fmaxf(largest, __shfl_xor_sync(0xFFFFFFFFu, largest, 2));
    int const exponent = ((__float_as_int(largest) >> 23) & 0xFF) - 127;
    int const shift = largest == 0.f ? 0 : min(max(14 - exponent, -113), 100);
    factor = power_of_two(shift);
    if (quarter == 0) shared.query_scale[row] = args.score_scale_log2 * power_of_two(-shift);
  }
  uint32_t const panels = ptx::shared_address(shared.query);
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    int const panel = i >> 1;
    uint4 value = chunks[i];
    if constexpr (Source::kFp8Cache) {
      value = panel < kLatentPanels ? scaled_to_f16(value, factor) : scaled_to_bf16(value, factor);
    }
    store_shared_16(panels + panel * kPanelBytes + swizzled_chunk(row, (i & 1) * 4 + quarter),
                    value);
  }
}

}  // namespace dsa_ops::sparse_mla
