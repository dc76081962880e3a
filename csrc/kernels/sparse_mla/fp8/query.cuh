// Brings the query tile of the FP8-cache kernel into shared memory: heads by 576 dims, K-major
// 128B-swizzled panels of 64 dims, heads past the last zero. The latent part becomes f16: each head
// is multiplied by the power of two that brings its largest magnitude to [2^14, 2^15).
//
// Within a panel the dims are permuted to the order in which the lanes of warpgroup 0 hold a token:
// lane c of four has 16 neighbouring bytes of it, which are k = 2 c, 2 c + 1, 2 c + 8, 2 c + 9 of
// consecutive k steps.
#pragma once
#include "device/ptx/convert.cuh"
#include "device/ptx/mbarrier.cuh"
#include "device/ptx/shared.cuh"
#include "kernels/sparse_mla/fp8/tile.cuh"

namespace dsa_ops::sparse_mla::fp8 {

// Bit patterns of magnitudes, which are in their order, by halves of a word.
__device__ __forceinline__ uint32_t larger_magnitudes(uint32_t largest, uint4 const& v) {
  for (uint32_t word : {v.x, v.y, v.z, v.w}) largest = __vmaxu2(largest, word & 0x7FFF7FFFu);
  return largest;
}

// The eight dims of chunk `chunk` of a panel, as words of two, to their places.
template <bool kRope>
__device__ __forceinline__ void store_query_chunk(uint32_t panel, int head, int chunk,
                                                  uint4 const& value, float factor) {
  uint32_t const words[4] = {value.x, value.y, value.z, value.w};
  // Latent: 16 bytes of a token are 16 dims, two chunks. RoPE: 8 dims, one chunk.
  int const lane = kRope ? chunk & 3 : chunk >> 1;
  int const first_step = kRope ? 2 * (chunk >> 2) : 2 * (chunk & 1);
#pragma unroll
  for (int pair = 0; pair < 4; ++pair) {
    int const target = 2 * (first_step + (pair >> 1)) + (pair & 1);
    float const low = ptx::bf16_low_to_float(words[pair]) * factor;
    float const high = ptx::bf16_high_to_float(words[pair]) * factor;
    ptx::store_shared_4(panel + swizzled_chunk(head, target) + lane * 4,
                        kRope ? ptx::pack_bf16(low, high) : ptx::pack_f16(low, high));
  }
}

// By warpgroups 1 and 2. All loads are in flight before the first is used: at small batches their
// latency is a good part of the kernel. `query` points at the tile's first head, `heads` of which
// exist.
template <class HeadTile>
__device__ void load_query_tile(SharedStorage<HeadTile>& shared, KernelArgs const& args,
                                uint16_t const* query, int heads, int thread) {
  constexpr int kChunks = kQueryPanels * 8;  // of 16 bytes
  constexpr int kThreadsPerHead = 256 / HeadTile::kHeads;
  constexpr int kPerThread = (kChunks + kThreadsPerHead - 1) / kThreadsPerHead;
  int const head = thread / kThreadsPerHead;
  int const first = thread % kThreadsPerHead;
  auto const* source = reinterpret_cast<uint4 const*>(query + head * args.q_head_stride);

  uint4 chunks[kPerThread];
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    int const chunk = first + i * kThreadsPerHead;
    bool const exists = head < heads && (kChunks % kThreadsPerHead == 0 || chunk < kChunks);
    chunks[i] = exists ? __ldg(source + chunk) : make_uint4(0, 0, 0, 0);
  }
  uint32_t magnitudes = 0;
#pragma unroll
  for (uint4 const& chunk : chunks) magnitudes = larger_magnitudes(magnitudes, chunk);
#pragma unroll
  for (int distance = 1; distance < kThreadsPerHead; distance *= 2) {
    magnitudes = __vmaxu2(magnitudes, __shfl_xor_sync(0xFFFFFFFFu, magnitudes, distance));
  }
  uint32_t const largest = max(magnitudes & 0xFFFFu, magnitudes >> 16);
  int const exponent = static_cast<int>(largest >> 7) - 127;
  int const shift = largest == 0 ? 0 : min(max(14 - exponent, -113), 100);
  float const factor = ptx::power_of_two(shift);
  if (first == 0) {
    shared.column[head] = make_float2(args.score_scale_log2 * ptx::power_of_two(-shift), 0.f);
  }
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    int const chunk = first + i * kThreadsPerHead;
    uint32_t const panel =
        ptx::shared_address(shared.query[0]) + (chunk >> 3) * HeadTile::kPanelBytes;
    if (chunk < kChunks - 8) {
      store_query_chunk<false>(panel, head, chunk & 7, chunks[i], factor);
    } else if (kChunks % kThreadsPerHead == 0 || chunk < kChunks) {
      store_query_chunk<true>(panel, head, chunk & 7, chunks[i], factor);
    }
  }
}

}  // namespace dsa_ops::sparse_mla::fp8
