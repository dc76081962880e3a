// A row as a kernel sees it: its range, its logits and their keys, its slots.
#pragma once
#include <cstdint>
#include <type_traits>

#include "kernels/topk/traits.h"

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

inline constexpr uint32_t kWorstKey = 0x007FFFFFu;  // of -inf and NaN
inline constexpr uint32_t kBestKey = 0xFF800000u;   // of +inf

// The logits of a row's range.
template <LogitsType kType>
struct Row {
  using Element = std::conditional_t<kType == LogitsType::kFloat32, uint32_t, uint16_t>;
  static constexpr int kShift = kType == LogitsType::kFloat32 ? 0 : 16;

  Element const* logits;
  int32_t length;

  static __device__ __forceinline__ float load(Element const* address) {
    return __uint_as_float(static_cast<uint32_t>(__ldg(address)) << kShift);
  }
  __device__ __forceinline__ float operator[](uint32_t position) const {
    return load(logits + position);
  }
};

// The number of logits of a row and where they start.
struct RowRange {
  int32_t start;
  int32_t length;

  __device__ RowRange(KernelArgs const& args, int32_t row) {
    int32_t const columns = args.num_columns;
    start = args.row_starts == nullptr ? 0 : min(max(args.row_starts[row], 0), columns);
    length = max(min(max(args.row_ends[row], 0), columns) - start, 0);
  }
};

// Positions to slots of the row's request; the identity unless slots are asked for.
struct SlotMap {
  int32_t const* pages = nullptr;
  int64_t num_pages = 0;
  bool identity;

  __device__ SlotMap(KernelArgs const& args, int32_t row) : identity(!args.to_slots) {
    if (identity) return;
    int32_t const request =
        args.row_to_request ? args.row_to_request[row] : row / args.rows_per_request;
    if (request < 0 || request >= args.num_requests) return;
    pages = args.block_table + int64_t{request} * args.block_table_stride;
    num_pages = args.pages_per_request;
  }

  // A request that does not exist has no pages, hence no slots.
  __device__ int32_t operator()(uint32_t position) const {
    if (identity) return position;
    uint32_t const index = position / kPageTokens;
    int32_t const page = index < num_pages ? pages[index] : -1;
    return page < 0 ? -1 : page * kPageTokens + static_cast<int32_t>(position % kPageTokens);
  }
};

}  // namespace dsa_ops::topk_sm90
