// The logits of a row's range.
#pragma once
#include <cstdint>
#include <type_traits>

#include "dsa_ops/topk.h"

namespace dsa_ops::topk_sm90::gated {

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

}  // namespace dsa_ops::topk_sm90::gated
