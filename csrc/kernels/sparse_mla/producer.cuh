// The gathering warpgroup: fills the kv stages with 64 tokens each, 16-bit values in 128B-swizzled
// panels of 64 dims, and the tokens' scales and masks.
//
// Row r of a panel is 128 bytes; its 16-byte chunk c lies at chunk c ^ (r & 7).
#pragma once
#include "device/ptx/copy.cuh"
#include "device/ptx/mbarrier.cuh"
#include "kernels/sparse_mla/kernel_args.h"
#include "kernels/sparse_mla/traits.h"

namespace dsa_ops::sparse_mla {

// One row's index list, cut to the part that this thread block works on.
struct IndexList {
  int32_t const* entries;
  int32_t length;       // entries at and after it are empty
  int32_t first_block;  // of 64 entries
  int32_t num_blocks;
  int64_t num_keys;

  // The key of an entry of block `block` of this part, or -1 when it is empty.
  __device__ __forceinline__ int32_t key(int block, int entry) const {
    int const position = (first_block + block) * kBlockTokens + entry;
    int32_t const index = position < length ? __ldg(entries + position) : -1;
    return index >= 0 && index < num_keys ? index : -1;
  }
};

__device__ __forceinline__ uint32_t swizzled_chunk(int row, int chunk) {
  return static_cast<uint32_t>(row * 128 + ((chunk ^ (row & 7)) << 4));
}

__device__ __forceinline__ void store_shared_16(uint32_t address, uint4 value) {
  asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(value.x),
               "r"(value.y), "r"(value.z), "r"(value.w)
               : "memory");
}

// bf16 rows: eight lanes copy one row with cp.async, 16 bytes each, zero-filled when empty.
template <int kHeadDim>
__device__ void produce(SharedStorage<Bf16Rows<kHeadDim>>& shared, KernelArgs const& args,
                        IndexList const& list, int thread) {
  constexpr int kPanels = kHeadDim / 64;
  constexpr int kRowsPerThread = kBlockTokens * 8 / kProducerThreads;
  int const chunk = thread & 7;
  int const first_row = thread >> 3;
  constexpr int kRowStep = kProducerThreads / 8;

  int32_t next[kRowsPerThread];
#pragma unroll
  for (int i = 0; i < kRowsPerThread; ++i) next[i] = list.key(0, first_row + i * kRowStep);

  for (int block = 0; block < list.num_blocks; ++block) {
    int const stage = block % kStages;
    ptx::mbarrier_wait(&shared.kv_empty[stage], ((block / kStages) & 1) ^ 1);
    uint32_t const panels = ptx::shared_address(shared.kv[stage]);
#pragma unroll
    for (int i = 0; i < kRowsPerThread; ++i) {
      int const row = first_row + i * kRowStep;
      bool const valid = next[i] >= 0;
      uint8_t const* source = args.kv + (valid ? next[i] : 0) * args.kv_stride_bytes + chunk * 16;
      uint32_t const target = panels + swizzled_chunk(row, chunk);
#pragma unroll
      for (int panel = 0; panel < kPanels; ++panel) {
        ptx::cp_async_16(target + panel * kPanelBytes, source + panel * 128, valid);
      }
      if (chunk == 0) shared.token_bias[stage][row] = valid ? 0.f : -INFINITY;
    }
    if (block + 1 < list.num_blocks) {
#pragma unroll
      for (int i = 0; i < kRowsPerThread; ++i) {
        next[i] = list.key(block + 1, first_row + i * kRowStep);
      }
    }
    // cp.async writes through the generic proxy: complete and fence before wgmma may read.
    ptx::cp_async_wait_all();
    ptx::fence_proxy_async();
    ptx::mbarrier_arrive(&shared.kv_full[stage]);
  }
}

// Four e4m3 values times a scale given as a sum of two f16 values: the scale's own rounding would
// be an error common to 128 dims, so it must not show; each product rounds once to f16.
__device__ __forceinline__ void convert_4(uint32_t raw, uint32_t scale_high, uint32_t scale_low,
                                          uint32_t& out_0, uint32_t& out_1) {
  asm("{\n"
      ".reg .b16 low, high;\n"
      ".reg .b32 v0, v1, t0, t1;\n"
      "mov.b32 {low, high}, %2;\n"
      "cvt.rn.f16x2.e4m3x2 v0, low;\n"
      "cvt.rn.f16x2.e4m3x2 v1, high;\n"
      "mul.rn.f16x2 t0, v0, %4;\n"
      "mul.rn.f16x2 t1, v1, %4;\n"
      "fma.rn.f16x2 %0, v0, %3, t0;\n"
      "fma.rn.f16x2 %1, v1, %3, t1;\n"
      "}"
      : "=r"(out_0), "=r"(out_1)
      : "r"(raw), "r"(scale_high), "r"(scale_low));
}

__device__ __forceinline__ uint32_t pack_f16(float low, float high) {
  uint32_t packed;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}

__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
  uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}

__device__ __forceinline__ float f16_low_to_float(uint32_t packed) {
  float value;
  asm("{\n.reg .b16 low, high;\nmov.b32 {low, high}, %1;\ncvt.f32.f16 %0, low;\n}"
      : "=f"(value)
      : "r"(packed));
  return value;
}

__device__ __forceinline__ uint32_t multiply_bf16x2(uint32_t a, uint32_t b) {
  uint32_t product;
  asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(product) : "r"(a), "r"(b));
  return product;
}

__device__ __forceinline__ float power_of_two(int exponent) {
  return __int_as_float((exponent + 127) << 23);
}

// A quarter of one 656-byte token: lane `quarter` of four holds 16 bytes of each 64-byte segment of
// the latent, and copies 32 bytes of the RoPE part.
struct RawToken {
  uint8_t const* address;  // null when the entry is empty
  uint4 latent[8];
  float4 scales;

  __device__ __forceinline__ void load(KernelArgs const& args, int32_t slot, int quarter) {
    uint32_t const index = static_cast<uint32_t>(max(slot, 0));
    uint32_t const page = index / args.page_size;
    address = slot < 0 ? nullptr
                       : args.kv + page * args.kv_stride_bytes +
                             (index - page * args.page_size) * int64_t{656};
#pragma unroll
    for (int i = 0; i < 8; ++i) latent[i] = load_16(i * 64 + quarter * 16);
    uint4 const bits = load_16(512);
    scales = make_float4(__uint_as_float(bits.x), __uint_as_float(bits.y), __uint_as_float(bits.z),
                         __uint_as_float(bits.w));
  }

  __device__ __forceinline__ uint4 load_16(int offset) const {
    return address ? __ldg(reinterpret_cast<uint4 const*>(address + offset))
                   : make_uint4(0, 0, 0, 0);
  }
};

// Writes the quarter token as row `row` of a stage. Values are divided by 2^e, with e chosen per
// token so that the largest scale becomes 32 ... 64: f16 then holds any scale a cache can hold.
__device__ __forceinline__ void store_token(SharedStorage<Fp8Cache>& shared, RawToken const& raw,
                                            int stage, int row, int quarter) {
  uint32_t const panels = ptx::shared_address(shared.kv[stage]);
  float const largest = fmaxf(fmaxf(raw.scales.x, raw.scales.y), fmaxf(raw.scales.z, raw.scales.w));
  int const biased_exponent = (__float_as_int(largest) >> 23) & 0xFF;
  int const exponent = min(max(biased_exponent - 127 - 5, -60), 100);
  float const inverse = power_of_two(-exponent);

  float const scales[4] = {raw.scales.x * inverse, raw.scales.y * inverse, raw.scales.z * inverse,
                           raw.scales.w * inverse};
  uint32_t const chunk_0 = swizzled_chunk(row, 2 * quarter);
  uint32_t const chunk_1 = swizzled_chunk(row, 2 * quarter + 1);
  uint4 rope[2];
#pragma unroll
  for (int panel = 0; panel < kLatentPanels; ++panel) {
    if (panel == kLatentPanels / 2) {  // only now: eight registers are free again
      rope[0] = raw.load_16(528 + quarter * 32);
      rope[1] = raw.load_16(528 + quarter * 32 + 16);
    }
    uint32_t const high = pack_f16(scales[panel / 2], scales[panel / 2]);
    float const residual = scales[panel / 2] - f16_low_to_float(high);
    uint32_t const low = pack_f16(residual, residual);
    uint4 const in = raw.latent[panel];
    uint4 first, second;
    convert_4(in.x, high, low, first.x, first.y);
    convert_4(in.y, high, low, first.z, first.w);
    convert_4(in.z, high, low, second.x, second.y);
    convert_4(in.w, high, low, second.z, second.w);
    store_shared_16(panels + panel * kPanelBytes + chunk_0, first);
    store_shared_16(panels + panel * kPanelBytes + chunk_1, second);
  }
  uint32_t const rope_factor = pack_bf16(inverse, inverse);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    uint4 value = rope[i];
    value.x = multiply_bf16x2(value.x, rope_factor);
    value.y = multiply_bf16x2(value.y, rope_factor);
    value.z = multiply_bf16x2(value.z, rope_factor);
    value.w = multiply_bf16x2(value.w, rope_factor);
    store_shared_16(panels + kLatentPanels * kPanelBytes + (i ? chunk_1 : chunk_0), value);
  }
  if (quarter == 0) {
    shared.token_scale[stage][row] = power_of_two(exponent);
    shared.token_inverse[stage][row] = inverse;
    shared.token_bias[stage][row] = raw.address ? static_cast<float>(exponent) : -INFINITY;
  }
}

// FP8 cache: an octet of lanes handles two neighbouring rows, so that the even and the odd row's
// stores fall on complementary chunks and meet no bank conflict. A warp fills 16 rows in two
// groups; the first group's loads are in flight before the stage is free.
__device__ inline void produce(SharedStorage<Fp8Cache>& shared, KernelArgs const& args,
                               IndexList const& list, int thread) {
  int const quarter = thread & 3;
  int const first_row = (thread >> 5) * 16 + ((thread & 31) >> 2);
  RawToken raw;
  int32_t next[2] = {list.key(0, first_row), list.key(0, first_row + 8)};
  raw.load(args, list.num_blocks ? next[0] : -1, quarter);

  for (int block = 0; block < list.num_blocks; ++block) {
    int const stage = block % kStages;
    int32_t const second = next[1];
    bool const more = block + 1 < list.num_blocks;
    next[0] = more ? list.key(block + 1, first_row) : -1;
    next[1] = more ? list.key(block + 1, first_row + 8) : -1;
    ptx::mbarrier_wait(&shared.kv_empty[stage], ((block / kStages) & 1) ^ 1);
    store_token(shared, raw, stage, first_row, quarter);
    raw.load(args, second, quarter);
    store_token(shared, raw, stage, first_row + 8, quarter);
    raw.load(args, next[0], quarter);
    ptx::fence_proxy_async();
    ptx::mbarrier_arrive(&shared.kv_full[stage]);
  }
}

}  // namespace dsa_ops::sparse_mla
