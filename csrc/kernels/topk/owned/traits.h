// Compile-time contract of the owned selection: block, rings, shared memory; for host code too.
#pragma once
#include <cstdint>

#include "kernels/indexer/traits.h"
#include "kernels/topk/binned/traits.h"

namespace dsa_ops::topk_sm90::owned {

// Four warpgroups score a page each at a time, and are what the binned selection takes; a warp for
// each of them feeds its ring.
inline constexpr int kMathThreads = binned::kThreads;
inline constexpr int kWarpgroups = kMathThreads / 128;
inline constexpr int kThreads = kMathThreads + 32 * kWarpgroups;
inline constexpr int kMaxColumns = binned::kThreads * binned::kThreadKeys;
inline constexpr int kMaxPages = kMaxColumns / indexer::kPageKeys;
// Pages of a warpgroup: a lane of the warp that feeds it knows where each of them is.
inline constexpr int kMaxTurns = kMaxPages / kWarpgroups;
static_assert(kMaxTurns == 32);
// Turns, of those that a row has, whose logits give the map of values to bins.
inline constexpr int kSampleTurns = 32 / kWarpgroups;
// Pages of a warpgroup in flight. More of them gain nothing: 128 x 8K 60.2 microseconds with
// 2, 61.0 with 4, 96 x 8K 48.5 and 51.2.
inline constexpr int kStages = 2;

template <class Tile>
struct alignas(1024) SharedStorage {
  alignas(1024) uint8_t query[Tile::kQueryBytes];
  alignas(1024) uint8_t keys[kWarpgroups][kStages][indexer::kPageKeys * indexer::kHeadDim];
  alignas(16) float scales[kWarpgroups][kStages][indexer::kPageKeys];
  alignas(16) float logits[kMaxColumns];
  float samples[kWarpgroups * kSampleTurns];
  int32_t page_present[kWarpgroups][kStages];
  uint64_t query_full;
  uint64_t key_full[kWarpgroups][kStages];
  uint64_t key_empty[kWarpgroups][kStages];
  binned::SharedStorage select;
};

}  // namespace dsa_ops::topk_sm90::owned
