// A block's slice of a row in shared memory: its load and its keys.
#pragma once
#include <cstdint>

#include "device/ptx/copy.cuh"
#include "device/ptx/mbarrier.cuh"
#include "device/ptx/warp.cuh"
#include "kernels/topk/block_scan.cuh"
#include "kernels/topk/keys.cuh"
#include "kernels/topk/packet.cuh"
#include "kernels/topk/row_slice.cuh"
#include "kernels/topk/staged/traits.h"

namespace dsa_ops::topk_sm90::staged {

// The slice lies in packets cut at the 16-byte addresses of the row: its logit i is element shift +
// i. A warp has `warp_tiles` tiles of neighbouring packets, a lane one packet of each.
template <LogitsType kType, int kThreads>
struct StagedSlice {
  using P = Packet<kType>;
  using Element = typename P::Element;
  static constexpr int kTileLogits = 32 * P::kLogits;
  static constexpr int kWarps = kThreads / 32;
  static constexpr int kMaxTiles = kThreadLogits / P::kLogits;

  uint4* packets;
  int begin;  // position of logit 0 in the row
  int count;  // loaded logits
  int valid;  // logits of the row among them
  int shift;
  int warp_tiles;  // a multiple of 2; the memory holds as many
  bool keyed = false;  // float32 only: the packets hold keys

  __device__ __forceinline__ StagedSlice(void* memory, Element const* row, int span, int rank,
                                         int cluster_size)
      : packets(static_cast<uint4*>(memory)) {
    int const length = slice_length(span, cluster_size);
    begin = rank * length;
    count = max(min(span - begin, length), 0);
    valid = count;
    shift = static_cast<int>(reinterpret_cast<uintptr_t>(row + begin) / sizeof(Element) %
                             P::kLogits);
    warp_tiles = (shift + count + 2 * kWarps * kTileLogits - 1) / (2 * kWarps * kTileLogits) * 2;
  }

  // Packets of a part that lie in the slice as a whole are copied; the first warp.
  template <int kParts>
  __device__ __forceinline__ void load(Element const* row, uint64_t (&loaded)[kParts]) const {
    uint4 const* const first = reinterpret_cast<uint4 const*>(row + begin - shift);
    int const whole_begin = shift > 0 ? 1 : 0;
    int const whole_end = (shift + count) / P::kLogits;
    int const part_packets = warp_tiles * 32 * kWarps / kParts;
#pragma unroll 1
    for (int part = 0; part < kParts; ++part) {
      int const from = max(part * part_packets, whole_begin);
      int const to = min((part + 1) * part_packets, whole_end);
      uint32_t const bytes = max(to - from, 0) * 16;
      ptx::mbarrier_arrive_expect_tx(&loaded[part], bytes);
      if (bytes > 0) ptx::bulk_copy(packets + from, first + from, bytes, &loaded[part]);
    }
  }
  // The logits that share their packets with others; all threads.
  __device__ __forceinline__ void load_edges(Element const* row) const {
    int const thread = threadIdx.x;
    int const head = shift > 0 ? min(P::kLogits - shift, count) : 0;
    int const tail = (shift + count) % P::kLogits;
    Element* const elements = reinterpret_cast<Element*>(packets);
    if (thread < head) elements[shift + thread] = row[begin + thread];
    if (thread < min(tail, count)) {
      elements[shift + count - 1 - thread] = row[begin + count - 1 - thread];
    }
  }
  // The part that this thread's packets belong to.
  template <int kParts>
  __device__ __forceinline__ void wait(uint64_t (&loaded)[kParts]) const {
    ptx::mbarrier_wait(&loaded[threadIdx.x / 32 * kParts / kWarps], 0);
  }

  __device__ __forceinline__ int tile_begin(int tile) const {
    return (static_cast<int>(threadIdx.x) / 32 * warp_tiles + tile) * kTileLogits - shift;
  }
  // Index in the slice of the first logit of a lane's packet.
  __device__ __forceinline__ int first(int tile) const {
    return tile_begin(tile) + static_cast<int>(threadIdx.x) % 32 * P::kLogits;
  }
  __device__ __forceinline__ float operator[](int index) const {
    return P::logit(reinterpret_cast<Element const*>(packets)[shift + index]);
  }

  // Calls take(keys, tile) for the packets of this thread; kNoKey for what is not of the row.
  template <class Take>
  __device__ __forceinline__ void visit(Take const& take) {
#pragma unroll 1
    for (int pair = 0; pair < warp_tiles; pair += 2) {
#pragma unroll
      for (int tile = pair; tile < pair + 2; ++tile) {
        int const place = (first(tile) + shift) / P::kLogits;
        uint32_t keys[P::kLogits];
        uint4 const raw = packets[place];
        if (keyed) {
          keys[0] = raw.x, keys[1] = raw.y, keys[2] = raw.z, keys[3] = raw.w;
        } else {
          make_keys(keys, raw, tile);
          if constexpr (kType == LogitsType::kFloat32) {
            packets[place] = make_uint4(keys[0], keys[1], keys[2], keys[3]);
          }
        }
        take(keys, tile);
      }
    }
    if constexpr (kType == LogitsType::kFloat32) keyed = true;
  }

 private:
  __device__ __forceinline__ void make_keys(uint32_t (&keys)[P::kLogits], uint4 raw,
                                            int tile) const {
    float logits[P::kLogits];
    P::unpack(raw, logits);
#pragma unroll
    for (int i = 0; i < P::kLogits; ++i) keys[i] = key_of(logits[i]);
    int const start = tile_begin(tile);
    if (start >= 0 && start + kTileLogits <= valid) return;
#pragma unroll
    for (int i = 0; i < P::kLogits; ++i) {
      int const index = first(tile) + i;
      if (index < 0 || index >= valid) keys[i] = kNoKey;
    }
  }
};

}  // namespace dsa_ops::topk_sm90::staged
