// A row in shared memory: its load and its keys.
#pragma once
#include <cstdint>

#include "device/ptx/copy.cuh"
#include "device/ptx/mbarrier.cuh"
#include "kernels/topk/keys.cuh"
#include "kernels/topk/packet.cuh"
#include "kernels/topk/staged/traits.h"

namespace dsa_ops::topk_sm90::staged {

// The row lies in packets cut at its 16-byte addresses: logit i is element shift + i. A warp has
// `warp_tiles` tiles of 32 neighbouring packets, a lane one packet of each.
template <LogitsType kType>
struct StagedRow {
  using P = Packet<kType>;
  using Element = typename P::Element;
  static constexpr int kTileLogits = 32 * P::kLogits;

  uint4* packets;
  Element const* logits;
  int length;
  int shift;
  int warp_tiles;      // a multiple of 2; the memory holds as many
  bool keyed = false;  // float32 only: the packets hold keys

  __device__ __forceinline__ StagedRow(void* memory, Element const* row, int num_logits)
      : packets(static_cast<uint4*>(memory)), logits(row), length(num_logits) {
    shift = static_cast<int>(reinterpret_cast<uintptr_t>(row) / sizeof(Element) % P::kLogits);
    constexpr int kPairLogits = 2 * kWarps * kTileLogits;
    warp_tiles = (shift + length + kPairLogits - 1) / kPairLogits * 2;
  }

  // Copies the packets that lie in the row as a whole; one thread.
  __device__ __forceinline__ void load_packets(uint64_t* loaded) const {
    int const begin = shift > 0 ? 1 : 0;
    int const end = (shift + length) / P::kLogits;
    uint32_t const bytes = max(end - begin, 0) * 16;
    ptx::mbarrier_arrive_expect_tx(loaded, bytes);
    if (bytes == 0) return;
    ptx::bulk_copy(packets + begin, reinterpret_cast<uint4 const*>(logits - shift) + begin, bytes,
                   loaded);
  }
  // The other logits; all threads.
  __device__ __forceinline__ void load_edges() const {
    int const thread = threadIdx.x;
    int const head = shift > 0 ? min(P::kLogits - shift, length) : 0;
    int const tail = min((shift + length) % P::kLogits, length);
    Element* const row = reinterpret_cast<Element*>(packets) + shift;
    if (thread < head) row[thread] = logits[thread];
    if (thread < tail) row[length - 1 - thread] = logits[length - 1 - thread];
  }

  __device__ __forceinline__ float operator[](int index) const {
    return P::logit(reinterpret_cast<Element const*>(packets)[shift + index]);
  }
  // Position of the first logit of this thread's packet.
  __device__ __forceinline__ int first(int tile) const {
    return tile_begin(tile) + static_cast<int>(threadIdx.x) % 32 * P::kLogits;
  }

  // Calls take(keys, tile) for the packets of this thread; kNoKey for what is not of the row.
  // Keys of float32 logits replace them, once.
  template <class Take>
  __device__ __forceinline__ void visit(Take const& take) {
#pragma unroll 1
    for (int pair = 0; pair < warp_tiles; pair += 2) {
#pragma unroll
      for (int tile = pair; tile < pair + 2; ++tile) {
        uint4& packet = packets[(first(tile) + shift) / P::kLogits];
        uint4 const raw = packet;
        uint32_t keys[P::kLogits];
        if (keyed) {
          keys[0] = raw.x, keys[1] = raw.y, keys[2] = raw.z, keys[3] = raw.w;
        } else {
          make_keys(keys, raw, tile);
          if constexpr (kType == LogitsType::kFloat32) {
            packet = make_uint4(keys[0], keys[1], keys[2], keys[3]);
          }
        }
        take(keys, tile);
      }
    }
    if constexpr (kType == LogitsType::kFloat32) keyed = true;
  }

 private:
  __device__ __forceinline__ int tile_begin(int tile) const {
    return (static_cast<int>(threadIdx.x) / 32 * warp_tiles + tile) * kTileLogits - shift;
  }
  __device__ __forceinline__ void make_keys(uint32_t (&keys)[P::kLogits], uint4 raw,
                                            int tile) const {
    float values[P::kLogits];
    P::unpack(raw, values);
#pragma unroll
    for (int i = 0; i < P::kLogits; ++i) keys[i] = key_of(values[i]);
    int const begin = tile_begin(tile);
    if (begin >= 0 && begin + kTileLogits <= length) return;
#pragma unroll
    for (int i = 0; i < P::kLogits; ++i) {
      int const index = first(tile) + i;
      if (index < 0 || index >= length) keys[i] = kNoKey;
    }
  }
};

}  // namespace dsa_ops::topk_sm90::staged
