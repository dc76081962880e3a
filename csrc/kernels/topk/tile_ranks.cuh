// The winners among keys that threads hold, in ascending order: every warp ranks and writes its
// own.
#pragma once
#include <cstdint>

#include "device/ptx/mbarrier.cuh"
#include "device/ptx/warp.cuh"
#include "kernels/topk/block_scan.cuh"
#include "kernels/topk/candidates.h"
#include "kernels/topk/cluster_select.cuh"
#include "kernels/topk/row_range.cuh"

namespace dsa_ops::topk_sm90 {

// Adds if a logit is not below a gate. In PTX, to be two instructions.
__device__ __forceinline__ void add_if_from(uint32_t& sum, float logit, float gate,
                                            uint32_t number) {
  asm("{\n"
      ".reg .pred passes;\n"
      "setp.ge.f32 passes, %1, %2;\n"
      "@passes add.u32 %0, %0, %3;\n"
      "}"
      : "+r"(sum)
      : "f"(logit), "f"(gate), "r"(number));
}

// Set bits of a mask under a condition. In PTX, to be two instructions each. A NaN is below all.
__device__ __forceinline__ void set_if_not_below(uint32_t& mask, float value, float least,
                                                 uint32_t bits) {
  asm("{\n"
      ".reg .pred taken;\n"
      "setp.ge.f32 taken, %1, %2;\n"
      "@taken or.b32 %0, %0, %3;\n"
      "}"
      : "+r"(mask)
      : "f"(value), "f"(least), "r"(bits));
}
__device__ __forceinline__ void set_if_from(uint32_t& mask, uint32_t value, uint32_t least,
                                            uint32_t bits) {
  asm("{\n"
      ".reg .pred taken;\n"
      "setp.ge.u32 taken, %1, %2;\n"
      "@taken or.b32 %0, %0, %3;\n"
      "}"
      : "+r"(mask)
      : "r"(value), "r"(least), "r"(bits));
}
__device__ __forceinline__ void set_if_equal(uint32_t& mask, uint32_t value, uint32_t other,
                                             uint32_t bits) {
  asm("{\n"
      ".reg .pred taken;\n"
      "setp.eq.u32 taken, %1, %2;\n"
      "@taken or.b32 %0, %0, %3;\n"
      "}"
      : "+r"(mask)
      : "r"(value), "r"(other), "r"(bits));
}

// Ranks, in a warp, of the bits of its lanes' masks. Bit tile * kLogits + i is key i of the lane's
// packet in a tile; positions ascend by tile, lane and i. Counts of all tiles share a word.
template <int kLogits, int kTiles>
struct TileRanks {
  static constexpr int kTileLogits = kLogits;  // of a lane
  static constexpr int kField = 32 / kTiles;
  static constexpr uint32_t kFieldMask = ~0u >> (32 - kField);
  static_assert(kTiles == 1 || 32 * kLogits < 1 << kField, "A tile's count fits its field.");

  uint32_t before;  // in lower lanes
  uint32_t sums;    // of the warp

  __device__ __forceinline__ explicit TileRanks(uint32_t mask) {
    constexpr uint32_t kTileMask = (1u << kLogits) - 1;
    uint32_t own = 0;
#pragma unroll
    for (int i = 0; i < kTiles; ++i) own += __popc(mask >> i * kLogits & kTileMask) << i * kField;
    sum_up(own);
  }
  // The bits are those of the logits from a gate on. A NaN is none.
  __device__ __forceinline__ TileRanks(float const (&logits)[kLogits * kTiles], float gate) {
    uint32_t own = 0;
#pragma unroll
    for (int i = 0; i < kLogits * kTiles; ++i) {
      add_if_from(own, logits[i], gate, 1u << i / kLogits * kField);
    }
    sum_up(own);
  }
  // One more bit, at a place of the warp's; those of other warps' places are the same.
  __device__ __forceinline__ void add(uint32_t& mask, uint32_t place) {
    uint32_t const tile = place / (32 * kLogits) % kTiles;
    uint32_t const of_lane = place / kLogits % 32;
    uint32_t const lane = threadIdx.x % 32;
    uint32_t const one = 1u << tile * kField;
    sums += one;
    before += lane > of_lane ? one : 0;
    mask |= lane == of_lane ? 1u << (tile * kLogits + place % kLogits) : 0;
  }
  __device__ __forceinline__ uint32_t total() const {
    uint32_t total = 0;
#pragma unroll
    for (int i = 0; i < kTiles; ++i) total += sums >> i * kField & kFieldMask;
    return total;
  }
  // Calls take_tile(tile, rank) for every tile: the rank of the first of its bits in this lane.
  template <class TakeTile>
  __device__ __forceinline__ void visit_tiles(TakeTile const& take_tile) const {
    uint32_t tile_first = 0;
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      take_tile(tile, tile_first + (before >> tile * kField & kFieldMask));
      tile_first += sums >> tile * kField & kFieldMask;
    }
  }
  // Calls take(bit, rank) for the set bits of the mask.
  template <class Take>
  __device__ __forceinline__ void visit(uint32_t mask, Take const& take) const {
    visit_tiles([&](int tile, uint32_t rank) {
#pragma unroll
      for (int i = 0; i < kLogits; ++i) {
        int const bit = tile * kLogits + i;
        if (mask >> bit & 1) take(bit, rank++);
      }
    });
  }

 private:
  __device__ __forceinline__ void sum_up(uint32_t own) {
    uint32_t const inclusive = ptx::warp_inclusive_sum(own);
    before = inclusive - own;
    sums = __shfl_sync(kAllLanes, inclusive, 31);
  }
};

// Where a key of a lane's packets lies in its warp's.
template <class Ranks>
__device__ __forceinline__ uint32_t warp_place(int bit) {
  constexpr int kLogits = Ranks::kTileLogits;
  return (bit / kLogits * 32 + threadIdx.x % 32) * kLogits + bit % kLogits;
}

// If `taken` has any of `bits`, stores to a shared address, which moves on. In PTX, as the compiler
// would make a branch of each.
__device__ __forceinline__ void store_if(uint32_t taken, uint32_t bits, uint32_t& address,
                                         uint16_t value) {
  asm volatile(
      "{\n"
      ".reg .pred taken;\n"
      ".reg .b32 own;\n"
      "and.b32 own, %1, %2;\n"
      "setp.ne.u32 taken, own, 0;\n"
      "@taken st.shared.u16 [%0], %3;\n"
      "@taken add.u32 %0, %0, 2;\n"
      "}"
      : "+r"(address)
      : "r"(taken), "r"(bits), "h"(value)
      : "memory");
}

// If a logit is not below a gate, stores it as a candidate. Two stores, as one would put every pair
// into neighbouring registers, from the row's loads on.
__device__ __forceinline__ void store_if_from(float logit, float gate, uint32_t& address,
                                              uint32_t position) {
  asm volatile(
      "{\n"
      ".reg .pred taken;\n"
      "setp.ge.f32 taken, %1, %2;\n"
      "@taken st.shared.f32 [%0], %1;\n"
      "@taken st.shared.b32 [%0 + 4], %3;\n"
      "@taken add.u32 %0, %0, 8;\n"
      "}"
      : "+r"(address)
      : "f"(logit), "f"(gate), "r"(position)
      : "memory");
}

// The sum of the lower warps' values. One barrier.
template <int kThreads>
__device__ __forceinline__ uint32_t sum_of_lower_warps(uint32_t (&warp_values)[kThreads / 32],
                                                       uint32_t value) {
  int const lane = threadIdx.x % 32;
  int const warp = threadIdx.x / 32;
  if (lane == 0) warp_values[warp] = value;
  __syncthreads();
  return __reduce_add_sync(kAllLanes, lane < warp ? warp_values[lane] : 0);
}

// Bits of the keys that win. One barrier if ties have to be told apart, else none.
template <class Ranks, int kThreads, int kKeys>
__device__ __forceinline__ uint32_t winner_mask(uint32_t (&warp_values)[kThreads / 32],
                                                uint32_t const (&keys)[kKeys],
                                                Verdict const& verdict) {
  uint32_t const threshold = verdict.threshold;
  uint32_t mask = 0;
#pragma unroll
  for (int i = 0; i < kKeys; ++i) mask |= keys[i] >= threshold ? 1u << i : 0;
  if (verdict.settled) return mask;
  uint32_t ties = 0;
#pragma unroll
  for (int i = 0; i < kKeys; ++i) ties |= keys[i] == threshold ? 1u << i : 0;
  uint32_t const wanted = verdict.ties - min(verdict.ties, verdict.equal_before);
  Ranks const ranks(ties);
  uint32_t const first = sum_of_lower_warps<kThreads>(warp_values, ranks.total());
  ranks.visit(ties, [&](int bit, uint32_t rank) {
    if (first + rank >= wanted) mask ^= 1u << bit;
  });
  return mask;
}

// Puts the places that a warp's bits stand for in order in shared memory.
template <class Ranks, class Storage>
__device__ __forceinline__ void gather_winners(Storage& shared, uint32_t mask, Ranks const& ranks) {
  constexpr int kLogits = Ranks::kTileLogits;
  uint32_t const first = ptx::shared_address(shared.winners[threadIdx.x / 32]);
  ranks.visit_tiles([&](int tile, uint32_t rank) {
    uint32_t address = first + 2 * rank;
#pragma unroll
    for (int i = 0; i < kLogits; ++i) {
      int const bit = tile * kLogits + i;
      store_if(mask, 1u << bit, address, static_cast<uint16_t>(warp_place<Ranks>(bit)));
    }
  });
  __syncwarp();
}

// Writes the `count` places that a warp has gathered from indices[0] on; place 0 is at
// `warp_position`.
template <class Storage>
__device__ __forceinline__ void write_gathered(Storage& shared, uint32_t count, int warp_position,
                                               SlotMap const& slot, int32_t* indices) {
  int const lane = threadIdx.x % 32;
  uint16_t const* const winners = shared.winners[threadIdx.x / 32];
  if (slot.identity) {
    constexpr int kBatch = 4;
    int const shift = warp_position + slot.offset;
#pragma unroll 1
    for (uint32_t i = lane; i < count; i += 32 * kBatch) {
      int32_t positions[kBatch];
#pragma unroll
      for (int j = 0; j < kBatch; ++j) {
        positions[j] = i + 32 * j < count ? winners[i + 32 * j] : 0;
      }
#pragma unroll
      for (int j = 0; j < kBatch; ++j) {
        if (i + 32 * j < count) indices[i + 32 * j] = shift + positions[j];
      }
    }
    return;
  }
#pragma unroll 4
  for (uint32_t i = lane; i < count; i += 32) indices[i] = slot(warp_position + winners[i]);
}

// Writes what the bits of the warps' masks stand for, in order, from indices[0] on; bit 0 of lane 0
// is at `warp_position`. One barrier.
template <class Ranks, int kThreads, class Storage>
__device__ __forceinline__ void write_winners(Storage& shared, uint32_t mask, int warp_position,
                                              SlotMap const& slot, int32_t* indices) {
  Ranks const ranks(mask);
  gather_winners(shared, mask, ranks);
  uint32_t const count = ranks.total();
  uint32_t const first = sum_of_lower_warps<kThreads>(shared.warp_values[1], count);
  write_gathered(shared, count, warp_position, slot, indices + first);
}

}  // namespace dsa_ops::topk_sm90
