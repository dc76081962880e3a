// Brings the query tile into shared memory: 64 heads by kHeadDim, 128B-swizzled panels, rows past
// the last head zero. For the FP8 cache the latent part becomes f16: each row is multiplied by the
// power of two that brings its largest magnitude to [2^14, 2^15), undone by query_scale.
#pragma once
#include "kernels/sparse_mla/producer.cuh"

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

// A warp brings kRows rows, all of whose loads are in flight before the first is used: at small
// batches their latency is a good part of the kernel. `query` points at the tile's first head,
// `heads` of which exist.
template <class Source>
__device__ void load_queries(SharedStorage<Source>& shared, KernelArgs const& args,
                             uint16_t const* query, int heads, int thread) {
  constexpr int kChunks = Source::kHeadDim / 8;  // of 16 bytes
  constexpr int kPerLane = (kChunks + 31) / 32;
  constexpr int kWarps = kConsumerThreads / 32;
  constexpr int kRows = kTileHeads / kWarps;
  int const warp = thread >> 5;
  int const lane = thread & 31;
  uint32_t const panels = ptx::shared_address(shared.query);

  uint4 chunks[kRows][kPerLane];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    int const row = warp + r * kWarps;
    auto const* source = reinterpret_cast<uint4 const*>(query + row * args.q_head_stride);
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      int const chunk = lane + 32 * i;
      bool const exists = row < heads && chunk < kChunks;
      chunks[r][i] = exists ? __ldg(source + chunk) : make_uint4(0, 0, 0, 0);
    }
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    int const row = warp + r * kWarps;
    float factor = 1.f;
    if constexpr (Source::kFp8Cache) {
      float largest = 0.f;
#pragma unroll
      for (int i = 0; i < kPerLane; ++i) {
        largest = fmaxf(largest, largest_magnitude(chunks[r][i]));
      }
#pragma unroll
      for (int offset = 16; offset; offset >>= 1) {
        largest = fmaxf(largest, __shfl_xor_sync(0xFFFFFFFFu, largest, offset));
      }
      int const exponent = ((__float_as_int(largest) >> 23) & 0xFF) - 127;
      int const shift = largest == 0.f ? 0 : min(max(14 - exponent, -113), 100);
      factor = power_of_two(shift);
      if (lane == 0) shared.query_scale[row] = args.score_scale_log2 * power_of_two(-shift);
    }
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      int const chunk = lane + 32 * i;
      if (chunk >= kChunks) continue;
      int const panel = chunk >> 3;
      uint4 value = chunks[r][i];
      if constexpr (Source::kFp8Cache) {
        value =
            panel < kLatentPanels ? scaled_to_f16(value, factor) : scaled_to_bf16(value, factor);
      }
      store_shared_16(panels + panel * kPanelBytes + swizzled_chunk(row, chunk & 7), value);
    }
  }
}

}  // namespace dsa_ops::sparse_mla
