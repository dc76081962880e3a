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

// Eight dims, as words of two, to the places that `first` and 16 times 1, 2 and 3 xor-ed to it
// name.
template <bool kRope>
__device__ __forceinline__ void store_query_chunk(uint32_t first, uint4 const& value,
                                                  float factor) {
  uint32_t const words[4] = {value.x, value.y, value.z, value.w};
#pragma unroll
  for (int pair = 0; pair < 4; ++pair) {
    float const low = ptx::bf16_low_to_float(words[pair]) * factor;
    float const high = ptx::bf16_high_to_float(words[pair]) * factor;
    ptx::store_shared_4(first ^ (pair << 4),
                        kRope ? ptx::pack_bf16(low, high) : ptx::pack_f16(low, high));
  }
}

// What eight lanes hold of a head: 16 bytes each of its panels `sub`, `sub` + kGroups and so on,
// and of the RoPE part, which is group 0's.
template <int kGroups>
struct QueryRow {
  static constexpr int kLatent = (kQueryPanels - 1) / kGroups;
  uint4 latent[kLatent];
  uint4 rope;

  __device__ __forceinline__ void load(uint16_t const* head, bool exists, int sub, int position) {
    auto const* const source = reinterpret_cast<uint4 const*>(head) + sub * 8 + position;
    uint4 const zero = make_uint4(0, 0, 0, 0);
#pragma unroll
    for (int i = 0; i < kLatent; ++i) latent[i] = exists ? __ldg(source + i * kGroups * 8) : zero;
    rope = exists && sub == 0 ? __ldg(source + 64) : zero;
  }

  __device__ __forceinline__ uint32_t largest_magnitude() const {
    uint32_t magnitudes = larger_magnitudes(0, rope);
#pragma unroll
    for (uint4 const& chunk : latent) magnitudes = larger_magnitudes(magnitudes, chunk);
#pragma unroll
    for (int distance = 1; distance < 8 * kGroups; distance *= 2) {
      magnitudes = __vmaxu2(magnitudes, __shfl_xor_sync(0xFFFFFFFFu, magnitudes, distance));
    }
    return max(magnitudes & 0xFFFFu, magnitudes >> 16);
  }
};

// A head's row to its place, as f16 times a power of two that `column` undoes.
template <int kGroups, class HeadTile>
__device__ __forceinline__ void store_query_row(SharedStorage<HeadTile>& shared,
                                                KernelArgs const& args,
                                                QueryRow<kGroups> const& row, int head, int sub,
                                                int position) {
  uint32_t const largest = row.largest_magnitude();
  int const exponent = static_cast<int>(largest >> 7) - 127;
  int const shift = largest == 0 ? 0 : min(max(14 - exponent, -113), 100);
  float const factor = ptx::power_of_two(shift);
  if (sub == 0 && position == 0) {
    shared.column[head] = make_float2(args.score_scale_log2 * ptx::power_of_two(-shift), 0.f);
  }
  // Latent: 16 bytes of a token are 16 dims, two chunks. RoPE: 8 dims, one chunk.
  uint32_t const panel = ptx::shared_address(shared.query[sub]);
  uint32_t const latent = panel + swizzled_chunk(head, 4 * (position & 1)) + (position >> 1) * 4;
  uint32_t const rope = panel + (kQueryPanels - 1) * HeadTile::kPanelBytes +
                        swizzled_chunk(head, 4 * (position >> 2)) + (position & 3) * 4;
#pragma unroll
  for (int i = 0; i < row.kLatent; ++i) {
    store_query_chunk<false>(latent + i * kGroups * HeadTile::kPanelBytes, row.latent[i], factor);
  }
  if (sub == 0) store_query_chunk<true>(rope, row.rope, factor);
}

// By kLoaders threads. A pass takes as many heads as they hold, the next ones under way: one pass
// of 256 threads over 64 heads would be 15 KB of code, run once and fetched cold.
template <int kLoaders, class HeadTile>
__device__ void load_query_tile(SharedStorage<HeadTile>& shared, KernelArgs const& args,
                                Tile const& tile, int thread) {
  constexpr int kRows = kLoaders / 8;
  constexpr int kPass = HeadTile::kHeads < kRows ? HeadTile::kHeads : kRows;
  constexpr int kGroups = kRows / kPass;
  uint16_t const* const query =
      args.q + tile.row * args.q_row_stride + tile.first_head * args.q_head_stride;
  int const heads = tile.heads;
  int const sub = (thread >> 3) % kGroups, position = thread & 7;
  int head = (thread >> 3) / kGroups;
  QueryRow<kGroups> next;
  next.load(query + head * args.q_head_stride, head < heads, sub, position);
#pragma unroll 1
  for (int pass = 0; pass < HeadTile::kHeads / kPass; ++pass, head += kPass) {
    QueryRow<kGroups> const row = next;
    if (pass + 1 < HeadTile::kHeads / kPass) {
      next.load(query + (head + kPass) * args.q_head_stride, head + kPass < heads, sub, position);
    }
    store_query_row(shared, args, row, head, sub, position);
  }
}

}  // namespace dsa_ops::sparse_mla::fp8
