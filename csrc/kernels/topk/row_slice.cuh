// The part of a row that one block of its cluster reads.
#pragma once
#include <cstdint>

#include "kernels/topk/packet.cuh"

namespace dsa_ops::topk_sm90 {

// Consecutive logits: `head` alone up to a 16-byte address, whole packets, the rest alone.
template <LogitsType kType>
struct Slice {
  using Element = typename Packet<kType>::Element;
  static constexpr int kPacketLogits = Packet<kType>::kLogits;

  Element const* logits;
  int count;
  int head;
  int num_packets;

  __device__ Slice(Element const* first, int num_logits) : logits(first), count(num_logits) {
    int const misaligned =
        static_cast<int>(reinterpret_cast<uintptr_t>(first) / sizeof(Element) % kPacketLogits);
    head = min((kPacketLogits - misaligned) % kPacketLogits, count);
    num_packets = (count - head) / kPacketLogits;
  }
  __device__ __forceinline__ float operator[](int index) const {
    return Packet<kType>::logit(logits[index]);
  }
  __device__ __forceinline__ uint4 const* packet(int index) const {
    return reinterpret_cast<uint4 const*>(logits + head) + index;
  }
};

// Logits of a slice of a cluster's row: at least 8, a multiple of 8, so that all slices of a row
// have one alignment.
__device__ __forceinline__ int slice_length(int row_length, int cluster_size) {
  return (row_length - 1) / cluster_size / 8 * 8 + 8;
}

}  // namespace dsa_ops::topk_sm90
