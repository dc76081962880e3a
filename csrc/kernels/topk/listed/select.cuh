// A row's best from the lists of its parts, a block per row.
//
// All logits from the greatest gate of the parts on are listed: if there are top_k of them, the
// row's best are among them. If all gates lie just above zero, so are the row's first zeros. Where
// neither suffices, or a list is full, the block scores the row again, stores its logits and
// selects from those as the gated kernel does.
//
// The launch overlaps the listing kernel, whose blocks let it begin once they know that what came
// before them is done: lengths may be read before the wait, lists may not.
//
// Shared memory: SelectStorage; 8 bytes per candidate, or in their place what scoring a row takes;
// the bitmap; 4 * top_k.
#pragma once
#include <cstdint>

#include "device/ptx/copy.cuh"
#include "device/ptx/grid.cuh"
#include "kernels/indexer/sm90_paged.cuh"
#include "kernels/topk/gated/steps.cuh"
#include "kernels/topk/listed/args.h"
#include "kernels/topk/listed/page_order.cuh"

namespace dsa_ops::topk_sm90::listed {

static_assert(kMaxParts <= 2 * kThreads, "A thread reads two headers.");

// Followed by what the gated kernel has behind its storage.
struct alignas(128) SelectStorage : gated::SharedStorage<1, kThreads> {
  uint32_t starts[2 * kThreads];  // of a part's candidates among the row's
  uint32_t warp_gate[kThreads / 32];
  uint32_t warp_high[kThreads / 32];
  uint32_t warp_zero_end[kThreads / 32];
};

inline constexpr uint32_t kZeroKey = 0x80000000u;
inline constexpr int kKeys = kRowCandidates / kThreads;
using Selector = ClusterSelect<1, kThreads>;

// What the parts of a row have in common.
struct RowGate {
  uint32_t key;  // of the greatest gate
  uint32_t high;
  uint32_t zero_end;  // above 0: all gates are just above zero, and zeros before this are listed
  uint32_t count;     // candidates; more than any row can have if a list is full
};

// Reads the headers of a row's parts, two per thread. Barriers: the sum; the starts.
__device__ __forceinline__ RowGate gather_parts(SelectStorage& shared, ListedPart const* parts,
                                                int32_t num_parts) {
  int const thread = threadIdx.x;
  int const warp = thread / 32;
  uint32_t counts[2] = {0, 0};
  RowGate row{0, 0, ~0u, 0};
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    int const index = 2 * thread + i;
    if (index >= num_parts) continue;
    uint4 const raw = reinterpret_cast<uint4 const*>(parts)[index];
    counts[i] = raw.x <= kPartCandidates ? raw.x : kRowCandidates + 1;
    row.key = max(row.key, raw.y);
    row.high = max(row.high, raw.z);
    row.zero_end = min(row.zero_end, raw.w);
  }
  row.key = __reduce_max_sync(kAllLanes, row.key);
  row.high = __reduce_max_sync(kAllLanes, row.high);
  row.zero_end = __reduce_min_sync(kAllLanes, row.zero_end);
  if (thread % 32 == 0) {
    shared.warp_gate[warp] = row.key;
    shared.warp_high[warp] = row.high;
    shared.warp_zero_end[warp] = row.zero_end;
  }
  uint32_t const own[1] = {counts[0] + counts[1]};
  BlockSums<kThreads, 1> const sums(shared.warp_sums[0], own);
  shared.starts[2 * thread] = sums.before[0];
  shared.starts[2 * thread + 1] = sums.before[0] + counts[0];
  constexpr int kWarps = kThreads / 32;
  row.key = __reduce_max_sync(kAllLanes, shared.warp_gate[thread % kWarps]);
  row.high = __reduce_max_sync(kAllLanes, shared.warp_high[thread % kWarps]);
  row.zero_end = __reduce_min_sync(kAllLanes, shared.warp_zero_end[thread % kWarps]);
  row.count = sums.total[0];
  __syncthreads();
  return row;
}

// Candidate threadIdx.x + i * kThreads of the row, in the order of the parts, goes to the same place
// of the list, and its key to keys[i]. Zeros from zero_end on are none.
__device__ __forceinline__ void load_candidates(SelectStorage const& shared,
                                                Candidate const* lists, int32_t num_parts,
                                                RowGate const& row, Candidate* list,
                                                uint32_t (&keys)[kKeys]) {
  uint32_t const thread = threadIdx.x;
  int32_t places[kKeys] = {};
  for (int32_t step = 1 << (31 - __clz(num_parts)); step > 0; step /= 2) {
#pragma unroll
    for (int i = 0; i < kKeys; ++i) {
      int32_t const next = places[i] + step;
      if (next < num_parts && shared.starts[next] <= thread + i * kThreads) places[i] = next;
    }
  }
  uint2 raw[kKeys];
#pragma unroll
  for (int i = 0; i < kKeys; ++i) {
    uint32_t const index = thread + i * kThreads;
    Candidate const* const part = lists + int64_t{places[i]} * kPartCandidates;
    raw[i] = make_uint2(0, 0);
    if (index < row.count) {
      raw[i] = *reinterpret_cast<uint2 const*>(part + (index - shared.starts[places[i]]));
    }
  }
#pragma unroll
  for (int i = 0; i < kKeys; ++i) {
    uint32_t const index = thread + i * kThreads;
    keys[i] = kNoKey;
    if (index < row.count) {
      uint32_t const key = key_of(__uint_as_float(raw[i].x));
      list[index] = Candidate{raw[i].x, raw[i].y};
      keys[i] = key == kZeroKey && raw[i].y >= row.zero_end ? kNoKey : key;
    }
  }
}

// False if the lists do not settle the row. The caller has prepared the selector.
__device__ __forceinline__ bool select_listed(SelectArgs const& args, SelectStorage& shared,
                                              RowParts const& parts, int32_t row_index,
                                              Selector& selector, Candidate* list,
                                              uint32_t (&keys)[kKeys]) {
  int64_t const first = part_index(row_index, parts.first_block);
  RowGate row = gather_parts(shared, args.listing.parts + first, parts.count);
  if (row.count > kRowCandidates || row.count < static_cast<uint32_t>(args.topk.top_k)) {
    return false;
  }
  load_candidates(shared, args.listing.lists + first * kPartCandidates, parts.count, row, list,
                  keys);
  Interval interval{row.key, ~row.key, round_shift(max(row.high, row.key) - row.key)};
#pragma unroll 1
  while (!selector.select(keys, interval)) {
    if (row.zero_end == 0) return false;
    row.zero_end = 0;
    interval = Interval{kZeroKey, 0, 0};
  }
  return true;
}

// Scores a row and stores its logits. The block meets before and after.
template <int kHeads>
__device__ void score_row(ListingArgs const& args, void* memory, int32_t row) {
  using Tile = indexer::PagedTile<kHeads, 1>;
  using Block = indexer::PagedBlock<Tile>;
  uintptr_t const aligned = (reinterpret_cast<uintptr_t>(memory) + 1023) / 1024 * 1024;
  auto& shared = *reinterpret_cast<indexer::PagedStorage<Tile>*>(aligned);
  int const warp = indexer::uniform(static_cast<int32_t>(threadIdx.x) / 32);
  int const lane = static_cast<int>(threadIdx.x) % 32;
  ptx::fence_proxy_async();  // the candidates were there
  if (threadIdx.x == 0) indexer::init_paged_barriers(shared);
  __syncthreads();
  if (warp < Block::kMathWarps) {
    indexer::score_paged<Tile>(args, shared, warp, lane);
  } else if (warp == Block::kProducerWarp) {
    indexer::PagedProducer<Tile>(args, shared, lane).run_tile(row);
  }
  __syncthreads();
}

template <int kHeads>
__global__ void __launch_bounds__(kThreads, 1)
    parts_topk_kernel(__grid_constant__ SelectArgs const args) {
  extern __shared__ __align__(1024) unsigned char memory[];
  SelectStorage& shared = *reinterpret_cast<SelectStorage*>(memory);
  Candidate* const list = reinterpret_cast<Candidate*>(memory + sizeof(SelectStorage));
  int32_t const row = blockIdx.x;

  Selector selector(shared.select, args.topk.top_k);
  clear_bitmap<kThreads>(reinterpret_cast<uint32_t*>(list + args.topk.capacity),
                         args.topk.window_words);
  RowRange const range(args.topk, row);
  RowParts const parts(args.listing.lengths, args.listing.row_tiles, row,
                       args.listing.unscored_length, args.listing_blocks);
  ptx::wait_for_prior_kernels();
  if (range.length <= args.topk.top_k) {
    write_whole_row<kThreads>(args.topk, range, SlotMap(args.topk, row), 0, 1,
                              args.topk.indices + int64_t{row} * args.topk.indices_row_stride);
    return;
  }
  uint32_t keys[kKeys];
  if (!select_listed(args, shared, parts, row, selector, list, keys)) {
    __syncthreads();
    score_row<kHeads>(args.listing, list, row);
    Selector anew(shared.select);
    gated::Assignment<LogitsType::kFloat32> const own(args.topk, row, 1);
    gated::list_passing(args.topk, shared, list, own, anew);
    gated::settle<LogitsType::kFloat32>(args.topk, shared, list, anew, keys);
  }
  gated::write_winners<LogitsType::kFloat32, 1, kThreads>(args.topk, shared, list, keys,
                                                          selector.verdict());
}

}  // namespace dsa_ops::topk_sm90::listed
