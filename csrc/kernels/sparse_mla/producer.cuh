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

// The part of a row's index list, or the union of a pack's lists, that this thread block works on.
struct IndexList {
  int32_t const* entries;
  uint8_t const* members;  // of a union's entries, else null
  int32_t length;          // entries at and after it are empty
  int32_t num_blocks;      // of 64 entries
  uint32_t num_keys;       // at most 2^31, above every index

  // An entry of a block as it stands in the list, negative past its end.
  __device__ __forceinline__ int32_t entry(int block, int offset) const {
    int const position = block * kBlockTokens + offset;
    return position < length ? __ldg(entries + position) : -1;
  }

  // Bit j: row j of the tile selects the entry.
  __device__ __forceinline__ uint32_t members_of(int block, int offset) const {
    int const position = block * kBlockTokens + offset;
    return members && position < length ? __ldg(members + position) : 1;
  }

  // Apart from entry(), which is called a block ahead: whoever looks at an entry waits for its
  // load.
  __device__ __forceinline__ bool is_key(int32_t entry) const {
    return static_cast<uint32_t>(entry) < num_keys;
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

  int32_t entries[kRowsPerThread];
  uint32_t members[kRowsPerThread];
#pragma unroll
  for (int i = 0; i < kRowsPerThread; ++i) {
    entries[i] = list.entry(0, first_row + i * kRowStep);
    members[i] = list.members_of(0, first_row + i * kRowStep);
  }

  for (int block = 0; block < list.num_blocks; ++block) {
    int const stage = block % kStages;
    int32_t next[kRowsPerThread];
    uint32_t next_members[kRowsPerThread];
#pragma unroll
    for (int i = 0; i < kRowsPerThread; ++i) {
      next[i] = list.entry(block + 1, first_row + i * kRowStep);
      next_members[i] = list.members_of(block + 1, first_row + i * kRowStep);
    }
    ptx::mbarrier_wait(&shared.kv_empty[stage], ((block / kStages) & 1) ^ 1);
    uint32_t const panels = ptx::shared_address(shared.kv[stage]);
#pragma unroll
    for (int i = 0; i < kRowsPerThread; ++i) {
      int const row = first_row + i * kRowStep;
      bool const valid = list.is_key(entries[i]);
      uint8_t const* source =
          args.kv + (valid ? entries[i] : 0) * args.kv_stride_bytes + chunk * 16;
      uint32_t const target = panels + swizzled_chunk(row, chunk);
#pragma unroll
      for (int panel = 0; panel < kPanels; ++panel) {
        ptx::cp_async_16(target + panel * kPanelBytes, source + panel * 128, valid);
      }
      bool const selects = valid && (members[i] >> chunk & 1);
      shared.token[stage].bias[chunk][row] = selects ? 0.f : -INFINITY;
    }
    // The copies arrive when they have landed, so that those of the next stage start at once.
    ptx::cp_async_mbarrier_arrive_noinc(&shared.kv_full[stage]);
    ptx::mbarrier_arrive(&shared.kv_full[stage]);
#pragma unroll
    for (int i = 0; i < kRowsPerThread; ++i) {
      entries[i] = next[i];
      members[i] = next_members[i];
    }
  }
}

// Four e4m3 values, exact in f16.
__device__ __forceinline__ void convert_4(uint32_t raw, uint32_t& out_0, uint32_t& out_1) {
  asm("{\n"
      ".reg .b16 low, high;\n"
      "mov.b32 {low, high}, %2;\n"
      "cvt.rn.f16x2.e4m3x2 %0, low;\n"
      "cvt.rn.f16x2.e4m3x2 %1, high;\n"
      "}"
      : "=r"(out_0), "=r"(out_1)
      : "r"(raw));
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

__device__ __forceinline__ float power_of_two(int exponent) {
  return __int_as_float((exponent + 127) << 23);
}

// The address of an entry's token in the cache, or null when the entry is empty.
__device__ __forceinline__ uint8_t const* token_address(KernelArgs const& args,
                                                        IndexList const& list, int32_t entry) {
  if (!list.is_key(entry)) return nullptr;
  uint32_t const index = static_cast<uint32_t>(entry);
  uint32_t const page = index / args.page_size;
  return args.kv + page * args.kv_stride_bytes + (index - page * args.page_size) * int64_t{656};
}

// 16 bytes of a token, zero for an empty entry. Volatile, so that it stays behind the stores that
// empty its registers: hoisted above them it would need others, and the copies at the end of the
// loop would wait for it (a fifth of the producer's time, H100, 2026-11-22).
__device__ __forceinline__ uint4 load_16(uint8_t const* token, int offset) {
  uint4 value;
  asm volatile(
      "{\n"
      ".reg .pred exists;\n"
      "setp.ne.u64 exists, %4, 0;\n"
      "mov.b32 %0, 0;\n"
      "mov.b32 %1, 0;\n"
      "mov.b32 %2, 0;\n"
      "mov.b32 %3, 0;\n"
      "@exists ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%5];\n"
      "}"
      : "=&r"(value.x), "=&r"(value.y), "=&r"(value.z), "=&r"(value.w)
      : "l"(token), "l"(token + offset)
      : "memory");
  return value;
}

// A quarter of one 656-byte token on its way: lane `quarter` of four holds 16 bytes of each 64-byte
// segment of the latent.
struct RawToken {
  uint8_t const* address;
  uint4 latent[8];
  uint4 scales;

  __device__ __forceinline__ void load(uint8_t const* token, int quarter) {
    address = token;
#pragma unroll
    for (int i = 0; i < 8; ++i) latent[i] = load_16(token, i * 64 + quarter * 16);
    scales = load_16(token, kLatentDim);
  }
};

// Lane `quarter` writes what the consumers need of group `quarter`. A group whose scale is below
// 2^-40 of the largest takes that instead, where only ratios are meant: it cannot show in a score,
// and no partial score can overflow.
__device__ __forceinline__ void store_token_data(TokenData<Fp8Cache>& data, uint4 const& scales,
                                                 bool exists, int row, int quarter) {
  auto const scale = [&](uint32_t bits) { return exists ? __uint_as_float(bits) : 1.f; };
  float const s[kGroups] = {scale(scales.x), scale(scales.y), scale(scales.z), scale(scales.w)};
  float const largest = fmaxf(fmaxf(s[0], s[1]), fmaxf(s[2], s[3]));
  float const own = quarter < 2 ? (quarter == 0 ? s[0] : s[1]) : (quarter == 2 ? s[2] : s[3]);
  float const next = quarter == 0 ? s[1] : quarter == 1 ? s[2] : s[3];
  float const floor = largest * 0x1p-40f;
  float const ratio = __fdividef(fmaxf(own, floor), fmaxf(next, floor));
  data.score_factor[quarter][row] = quarter == kGroups - 1 ? own : ratio;

  int const biased_exponent = (__float_as_int(largest) >> 23) & 0xFF;
  int const exponent = min(max(biased_exponent - 127, -100), 100);
  float const inverse = power_of_two(-exponent);
  data.value_scale[quarter][row] = static_cast<uint16_t>(pack_f16(own * inverse, 0.f));
  if (quarter == 0) {
    data.inverse[row] = inverse;
    data.bias[row] = exists ? static_cast<float>(exponent) : -INFINITY;
  }
}

// Writes the quarter token as row `row` of a stage and starts loading the next one into the
// registers that come free, so that eight loads per lane are always in flight.
__device__ __forceinline__ void store_token(SharedStorage<Fp8Cache>& shared, KernelArgs const& args,
                                            RawToken& raw, uint8_t const* next, int stage, int row,
                                            int quarter) {
  uint32_t const panels = ptx::shared_address(shared.kv[stage]);
  uint32_t const chunk_0 = swizzled_chunk(row, 2 * quarter);
  uint32_t const chunk_1 = swizzled_chunk(row, 2 * quarter + 1);
  bool const exists = raw.address != nullptr;
  // An empty entry reads nothing; its address only has to be one of this memory.
  uint8_t const* rope = exists ? raw.address + 528 + quarter * 32 : args.kv;
  ptx::cp_async_16(panels + kLatentPanels * kPanelBytes + chunk_0, rope, exists);
  ptx::cp_async_16(panels + kLatentPanels * kPanelBytes + chunk_1, rope + 16, exists);
  store_token_data(shared.token[stage], raw.scales, exists, row, quarter);
  raw.address = next;
  raw.scales = load_16(next, kLatentDim);
#pragma unroll
  for (int panel = 0; panel < kLatentPanels; ++panel) {
    uint4 const in = raw.latent[panel];
    uint4 first, second;
    convert_4(in.x, first.x, first.y);
    convert_4(in.y, first.z, first.w);
    convert_4(in.z, second.x, second.y);
    convert_4(in.w, second.z, second.w);
    store_shared_16(panels + panel * kPanelBytes + chunk_0, first);
    store_shared_16(panels + panel * kPanelBytes + chunk_1, second);
    raw.latent[panel] = load_16(next, panel * 64 + quarter * 16);
  }
}

// FP8 cache: an octet of lanes handles two neighbouring rows, so that the even and the odd row's
// stores fall on complementary chunks and meet no bank conflict. A warp fills 16 rows in two
// groups.
__device__ inline void produce(SharedStorage<Fp8Cache>& shared, KernelArgs const& args,
                               IndexList const& list, int thread) {
  int const quarter = thread & 3;
  int const first_row = (thread >> 5) * 16 + ((thread & 31) >> 2);
  if (list.num_blocks == 0) return;
  auto const entry = [&](int group) { return list.entry(group >> 1, first_row + (group & 1) * 8); };
  RawToken raw;
  raw.load(token_address(args, list, entry(0)), quarter);
  int32_t next = entry(1);

  // Entries past the list are empty, so the last iterations load nothing.
#pragma unroll 1
  for (int group = 0; group < 2 * list.num_blocks; ++group) {
    int const stage = (group >> 1) % kStages;
    uint8_t const* const next_address = token_address(args, list, next);
    next = entry(group + 2);
    if (group % 2 == 0) {
      ptx::mbarrier_wait(&shared.kv_empty[stage], ((group >> 1) / kStages & 1) ^ 1);
    }
    store_token(shared, args, raw, next_address, stage, first_row + (group & 1) * 8, quarter);
    if (group % 2 == 1) {
      ptx::fence_proxy_async();
      ptx::cp_async_mbarrier_arrive_noinc(&shared.kv_full[stage]);
      ptx::mbarrier_arrive(&shared.kv_full[stage]);
    }
  }
}

}  // namespace dsa_ops::sparse_mla
