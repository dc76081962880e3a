// The keys of one block's slice of a row, in 16-byte packets of an unaligned range.
#pragma once
#include <cstdint>

#include "kernels/topk/keys.cuh"
#include "kernels/topk/resident/traits.h"

namespace dsa_ops::topk_sm90::resident {

// 16 bytes of logits, a packet, and how its keys come out of it.
template <LogitsType kType>
struct Packet;

template <>
struct Packet<LogitsType::kFloat32> {
  using Element = float;
  static constexpr int kKeys = 4;
  static constexpr int kQuads = 1;
  static __device__ uint32_t key(Element element) { return key_of(element); }
  static __device__ uint4 quad(uint4 raw, int) {
    return make_uint4(key_of(__uint_as_float(raw.x)), key_of(__uint_as_float(raw.y)),
                      key_of(__uint_as_float(raw.z)), key_of(__uint_as_float(raw.w)));
  }
};

template <>
struct Packet<LogitsType::kBfloat16> {
  using Element = uint16_t;
  static constexpr int kKeys = 8;
  static constexpr int kQuads = 2;
  static __device__ uint32_t key(Element element) {
    return key_of(__uint_as_float(static_cast<uint32_t>(element) << 16));
  }
  static __device__ uint4 quad(uint4 raw, int index) {
    uint32_t const first = index == 0 ? raw.x : raw.z;
    uint32_t const second = index == 0 ? raw.y : raw.w;
    return make_uint4(
        key_of(__uint_as_float(first << 16)), key_of(__uint_as_float(first & 0xFFFF0000u)),
        key_of(__uint_as_float(second << 16)), key_of(__uint_as_float(second & 0xFFFF0000u)));
  }
};

// Consecutive logits of a row. Packets are cut at 16-byte addresses: packet 0 starts `shift` logits
// before the slice, and slice logit i is key i + shift. Keys run to the end of a group.
template <LogitsType kType>
struct Slice {
  using Element = typename Packet<kType>::Element;
  static constexpr int kPacketKeys = Packet<kType>::kKeys;

  Element const* logits;  // of the slice's first logit
  int count;              // logits
  int shift;              // keys before the first logit
  int keys;               // with those before and after the logits, a multiple of kGroupKeys

  __device__ Slice(Element const* first, int num_logits) : logits(first), count(num_logits) {
    shift = static_cast<int>(reinterpret_cast<uintptr_t>(first) / sizeof(Element) % kPacketKeys);
    keys = (shift + count + kGroupKeys - 1) / kGroupKeys * kGroupKeys;
  }
};

// Calls visit(q, keys) once, from one thread of the block, for each quad q (keys 4q ... 4q + 3) of
// packets [begin, end); keys that stand for no logit are kNoKey.
template <LogitsType kType, class Visit>
__device__ __forceinline__ void visit_packets(Slice<kType> const& slice, int begin, int end,
                                              Visit&& visit) {
  using Traits = Packet<kType>;
  constexpr int kBatch = 4;  // loads in flight per thread
  int const thread = threadIdx.x;
  // Opaque, so that addresses and bounds are computed here and not kept in registers from one call
  // to the next through everything in between.
  int shift = slice.shift;
  asm volatile("" : "+r"(shift));
  // Packets [first_full, tail_begin) hold kPacketKeys logits each.
  int const first_full = shift > 0 ? 1 : 0;
  int const tail_begin = max(first_full, (shift + slice.count) / Traits::kKeys);
  uint4 const* const packets = reinterpret_cast<uint4 const*>(slice.logits - shift);
  int const full_end = min(end, tail_begin);
  for (int first = max(begin, first_full) + thread; first < full_end; first += kBatch * kThreads) {
    uint4 raw[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      if (first + i * kThreads < full_end) raw[i] = packets[first + i * kThreads];
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      int const packet = first + i * kThreads;
      if (packet >= full_end) break;
#pragma unroll
      for (int j = 0; j < Traits::kQuads; ++j) {
        visit(packet * Traits::kQuads + j, Traits::quad(raw[i], j));
      }
    }
  }
  // The first packet, if it starts before the slice, and the at most 8 from tail_begin on.
  int const edge = thread == 0 ? 0 : tail_begin + thread - 1;
  bool const is_edge = thread == 0 ? first_full > 0 : edge < slice.keys / Traits::kKeys;
  if (is_edge && begin <= edge && edge < end) {
#pragma unroll 1
    for (int quad = edge * Traits::kQuads; quad < (edge + 1) * Traits::kQuads; ++quad) {
      auto const key = [&](int i) {
        int const logit = 4 * quad + i - shift;
        return 0 <= logit && logit < slice.count ? Traits::key(slice.logits[logit]) : kNoKey;
      };
      visit(quad, make_uint4(key(0), key(1), key(2), key(3)));
    }
  }
}

}  // namespace dsa_ops::topk_sm90::resident
