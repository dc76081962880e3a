// The logits of a row that a block's threads hold in registers.
#pragma once
#include <cstdint>

#include "kernels/topk/keys.cuh"
#include "kernels/topk/packet.cuh"
#include "kernels/topk/row_slice.cuh"

namespace dsa_ops::topk_sm90 {

// A block's slice of a row in packets cut at 16-byte addresses: packet 0 starts `shift` logits
// before the slice. A warp has 32 * kKeys neighbours, a tile of them 32 packets.
template <LogitsType kType, int kKeys>
struct HeldPackets {
  using P = Packet<kType>;
  using Element = typename P::Element;
  static constexpr int kTiles = kKeys / P::kLogits;

  Element const* logits;  // of the slice's first logit
  int begin;              // its position in the row
  int count;
  int shift;

  __device__ HeldPackets(Element const* row, int span, int rank, int cluster_size) {
    int const length = slice_length(span, cluster_size);
    begin = rank * length;
    count = max(min(span - begin, length), 0);
    logits = row + begin;
    shift = static_cast<int>(reinterpret_cast<uintptr_t>(logits) / sizeof(Element) % P::kLogits);
  }
  // All of a row.
  __device__ HeldPackets(Element const* row, int num_logits)
      : logits(row), begin(0), count(num_logits) {
    shift = static_cast<int>(reinterpret_cast<uintptr_t>(logits) / sizeof(Element) % P::kLogits);
  }
  // Index in the slice of the first logit of a warp, of a thread's packet.
  __device__ __forceinline__ int warp_first() const {
    return static_cast<int>(threadIdx.x / 32 * 32 * kKeys) - shift;
  }
  __device__ __forceinline__ int first(int tile) const {
    int const lane = static_cast<int>(threadIdx.x % 32);
    return warp_first() + (tile * 32 + lane) * P::kLogits;
  }

  // The slice's first `valid` logits hold all of the warp.
  __device__ __forceinline__ bool whole(int valid) const {
    return warp_first() >= 0 && warp_first() + 32 * kKeys <= valid;
  }
  __device__ __forceinline__ void load(float (&values)[kKeys]) const {
    load_tiles<0, kTiles>(values);
  }
  template <int kFrom, int kTo>
  __device__ __forceinline__ void load_tiles(float (&values)[kKeys]) const {
    if (whole(count)) {
#pragma unroll
      for (int tile = kFrom; tile < kTo; ++tile) {
        P::unpack(load_packet(logits + first(tile)), &values[tile * P::kLogits]);
      }
      return;
    }
#pragma unroll
    for (int i = kFrom * P::kLogits; i < kTo * P::kLogits; ++i) {
      values[i] = holds(i, count) ? P::logit(logits[index(i)]) : no_logit();
    }
  }

  // Index in the slice of key i of the thread, and the bit of the thread's key at an index.
  __device__ __forceinline__ int index(int i) const {
    return first(i / P::kLogits) + i % P::kLogits;
  }
  __device__ __forceinline__ uint32_t bit(int index) const {
    int const offset = index - first(0);
    return 1u << (offset / (32 * P::kLogits) * P::kLogits + offset % P::kLogits);
  }
  // Key i is one of the slice's first `valid`.
  __device__ __forceinline__ bool holds(int i, int valid) const {
    return 0 <= index(i) && index(i) < valid;
  }
  // Makes what lies past the slice's first `valid` logits as if it had not been loaded.
  __device__ __forceinline__ void drop_beyond(float (&values)[kKeys], int valid) const {
    if (whole(valid)) return;
#pragma unroll
    for (int i = 0; i < kKeys; ++i) values[i] = holds(i, valid) ? values[i] : no_logit();
  }
  // Keys of the slice's first `valid` logits, kNoKey for what else was loaded.
  __device__ __forceinline__ void make_keys(uint32_t (&keys)[kKeys], float const (&values)[kKeys],
                                            int valid) const {
#pragma unroll
    for (int i = 0; i < kKeys; ++i) keys[i] = key_of(values[i]);
    if (whole(valid)) return;
#pragma unroll
    for (int i = 0; i < kKeys; ++i) keys[i] = holds(i, valid) ? keys[i] : kNoKey;
  }
};

}  // namespace dsa_ops::topk_sm90
