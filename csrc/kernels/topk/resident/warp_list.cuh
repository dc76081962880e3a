// Candidates of one warp, in ascending order of position: what passes a gate of the logits that its
// lanes hold. Everything behind the list takes a candidate a lane, instead of kThreadKeys keys.
#pragma once
#include <cstdint>

#include "device/ptx/mbarrier.cuh"
#include "kernels/topk/block_scan.cuh"
#include "kernels/topk/candidates.h"
#include "kernels/topk/keys.cuh"
#include "kernels/topk/packet.cuh"
#include "kernels/topk/resident/traits.h"
#include "kernels/topk/storage.h"
#include "kernels/topk/tile_ranks.cuh"

namespace dsa_ops::topk_sm90::resident {

template <LogitsType kType>
class WarpList {
 public:
  using Ranks = TileRanks<Packet<kType>::kLogits, kThreadKeys / Packet<kType>::kLogits>;

  __device__ __forceinline__ explicit WarpList(SharedStorage& shared)
      : list_(shared.lists[threadIdx.x / 32]) {}

  // Lists the logits from a gate on. A NaN never passes.
  __device__ __forceinline__ void fill(float const (&logits)[kThreadKeys], float gate) {
    constexpr int kLogits = Ranks::kTileLogits;
    uint32_t const first = ptx::shared_address(list_);
    Ranks const ranks(logits, gate);
    __syncwarp();
    ranks.visit_tiles([&](int tile, uint32_t rank) {
      uint32_t address = first + sizeof(Candidate) * rank;
#pragma unroll
      for (int i = 0; i < kLogits; ++i) {
        int const bit = tile * kLogits + i;
        store_if_from(logits[bit], gate, address, warp_place<Ranks>(bit));
      }
    });
    count_ = ranks.total();
    __syncwarp();
  }

  // Calls take(keys), arrays of one, for the keys of this lane.
  template <class Take>
  __device__ __forceinline__ void visit(Take const& take) const {
#pragma unroll 1
    for (uint32_t i = threadIdx.x % 32; i < count_; i += 32) {
      uint32_t const key[1] = {key_at(i)};
      take(key);
    }
  }

  // How many keys equal one. By all lanes.
  __device__ __forceinline__ uint32_t count_equal(uint32_t key) const {
    uint32_t equal = 0;
#pragma unroll 1
    for (uint32_t first = 0; first < count_; first += 32) {
      equal += __popc(__ballot_sync(kAllLanes, key_or_none(first) == key));
    }
    return equal;
  }

  // What is behind the winners found so far.
  struct Tally {
    uint32_t winners = 0;
    uint32_t ties = 0;
  };

  // Calls take(rank, place) for the keys above the threshold and the first `ties` equal to it, of
  // the 32 keys from `first` on. By all lanes.
  template <class Take>
  __device__ __forceinline__ void visit_winners(uint32_t first, uint32_t threshold, uint32_t ties,
                                                Tally& tally, Take const& take) const {
    uint32_t const lower_lanes = (1u << threadIdx.x % 32) - 1;
    uint32_t const key = key_or_none(first);
    uint32_t const equal = __ballot_sync(kAllLanes, key == threshold);
    bool const tie_wins = tally.ties + __popc(equal & lower_lanes) < ties;
    bool const wins = key > threshold || (key == threshold && tie_wins);
    uint32_t const winning = __ballot_sync(kAllLanes, wins);
    if (wins) {
      take(tally.winners + __popc(winning & lower_lanes), list_[first + threadIdx.x % 32].position);
    }
    tally.winners += __popc(winning);
    tally.ties += __popc(equal);
  }

  __device__ __forceinline__ uint32_t count() const { return count_; }

 private:
  __device__ __forceinline__ uint32_t key_or_none(uint32_t first) const {
    uint32_t const index = first + threadIdx.x % 32;
    return index < count_ ? key_at(index) : kNoKey;
  }

  __device__ __forceinline__ uint32_t key_at(uint32_t index) const {
    return key_of(__uint_as_float(list_[index].bits));
  }

  Candidate* list_;  // positions are places in the warp
  uint32_t count_ = 0;
};

// Writes the block's winners in order from indices[0] on; place 0 of the warp's list is at
// `warp_position`. Barriers: the warps' ties, if those have to be told apart; the warps' winners.
template <LogitsType kType>
__device__ __forceinline__ void write_listed(SharedStorage& shared, WarpList<kType> const& list,
                                             Verdict const& verdict, int warp_position,
                                             SlotMap const& slot, int32_t* indices) {
  uint32_t ties = ~0u;
  if (!verdict.settled) {
    uint32_t const equal = list.count_equal(verdict.threshold);
    uint32_t const before =
        verdict.equal_before + sum_of_lower_warps<kThreads>(shared.warp_values[0], equal);
    ties = verdict.ties - min(verdict.ties, before);
  }
  // Few lists have more than a key a lane.
  using Tally = typename WarpList<kType>::Tally;
  Tally first;
  int32_t* target = nullptr;
  int32_t position = 0;
  list.visit_winners(0, verdict.threshold, ties, first, [&](uint32_t rank, uint32_t place) {
    target = indices + rank;
    position = warp_position + static_cast<int32_t>(place);
  });
  Tally all = first;
#pragma unroll 1
  for (uint32_t i = 32; i < list.count(); i += 32) {
    list.visit_winners(i, verdict.threshold, ties, all, [](uint32_t, uint32_t) {});
  }
  uint32_t const before = sum_of_lower_warps<kThreads>(shared.warp_values[1], all.winners);
  if (target != nullptr) target[before] = slot(position);
#pragma unroll 1
  for (uint32_t i = 32; i < list.count(); i += 32) {
    list.visit_winners(i, verdict.threshold, ties, first, [&](uint32_t rank, uint32_t place) {
      indices[before + rank] = slot(warp_position + place);
    });
  }
}

}  // namespace dsa_ops::topk_sm90::resident
