// What the kernels of the fused selection share: a row's gate, its lists, the work of a scan.
#pragma once
#include <cstdint>

#include "kernels/indexer/traits.h"
#include "kernels/topk/candidates.h"

namespace dsa_ops::topk_sm90::fused {

// Every so many keys are in the sample. A prime, as data may have a period.
inline constexpr int kSampleStride = 61;

// Lists of a row: one per math warp and lane that holds a logit of the row. A slot is the lanes'
// candidates side by side.
inline constexpr int kListLanes = 16;
inline constexpr int kRowLists = indexer::kMathWarps * kListLanes;
inline constexpr int kSlotBytes = kListLanes * static_cast<int>(sizeof(Candidate));
// A row tile is cut in two parts at most; they fill its lists from either end.
inline constexpr int kParts = 2;

// Of such a call. Winners are ordered in shared memory.
inline constexpr int kMaxFusedTopk = 2048;

// The selection of a row's candidates. Threads hold them in registers.
inline constexpr int kSelectThreads = 512;
inline constexpr int kMaxListCapacity = 80;
inline constexpr int kMaxWindowWords = 4096;  // of the bitmaps; longer rows take several windows

// Blocks that score a row tile again together.
inline constexpr int kRescoreCluster = 8;

// Fewer heads cost less to score and as much to select for: the plan leaves those to chunks.
inline constexpr int kFusedHeads = 64;
using Tile = indexer::RaggedTile<kFusedHeads>;
inline constexpr int kTileRows = Tile::kQueries;

// Logits from `low` on pass at keys before low_end, and from `high` on after. NaN: none passes.
struct alignas(16) RowGate {
  float low;
  float high;
  int32_t low_end;
};

// How the row tiles of a scan, laid end to end by the key tiles each has to score, are shared out:
// block b takes `share` of them from b * share on.
struct ScanWork {
  int32_t total;
  int32_t share;
};

}  // namespace dsa_ops::topk_sm90::fused
