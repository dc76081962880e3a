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
// Shared memory: SelectStorage; behind it 8 bytes per candidate, the bitmap (1 bit per logit of the
// row and 1/32 more), 2 bytes per word of it, 8 * top_k, or in place of all these what scoring a
// row takes.
#pragma once
#include <cstdint>

#include "device/ptx/copy.cuh"
#include "device/ptx/grid.cuh"
#include "device/ptx/warpgroup.cuh"
#include "kernels/indexer/sm90_paged.cuh"
#include "kernels/topk/gated/steps.cuh"
#include "kernels/topk/listed/args.h"
#include "kernels/topk/listed/page_order.cuh"

namespace dsa_ops::topk_sm90::listed {

static_assert(kMaxParts < kThreads, "A thread reads a header, and one knows the total.");

// Followed by the list, the bitmap and its word sums, the winners' positions.
struct alignas(128) SelectStorage : gated::SharedStorage<1, kThreads> {
  uint32_t starts[kThreads];              // of a part's candidates among the row's
  uint16_t parts[kRowCandidates / 32];    // in which every 32nd candidate lies
  uint32_t warp_words[3][kThreads / 32];  // see gather_parts
  uint32_t num_winners;
  int32_t row_length;
  RequestParts parts_of_request;
};

using Selector = ClusterSelect<1, kThreads>;

// In place of the number of a list's candidates, if not all of them fit: above the sum of all
// lists.
inline constexpr uint32_t kIncomplete = 1u << 22;
static_assert(kMaxParts * kPartCandidates < kIncomplete && kMaxParts < ~0u / kIncomplete);

// What the parts of a row have in common.
struct RowGate {
  uint32_t key;  // of the greatest gate
  uint32_t high;
  uint32_t zero_end;  // above 0: all gates are just above zero, and zeros before this are listed
  uint32_t count;     // candidates; kIncomplete and more if a list is full
};

// Reads the headers of a row's parts, one per thread; every `stride`-th is the row's. Barriers: the
// sum; the starts and parts.
__device__ __forceinline__ RowGate gather_parts(SelectStorage& shared, ListedPart const* parts,
                                                int32_t stride, int32_t num_parts) {
  int const thread = static_cast<int>(opaque(threadIdx.x));
  int const warp = thread / 32;
  uint32_t count[1] = {0};
  RowGate row{0, 0, ~0u, 0};
  if (thread < num_parts) {
    uint4 const raw = reinterpret_cast<uint4 const*>(parts)[thread * stride];
    count[0] = raw.x <= kPartCandidates ? raw.x : kIncomplete;
    row = RowGate{raw.y, raw.z, raw.w, 0};
  }
  uint32_t const gate = __reduce_max_sync(kAllLanes, row.key);
  uint32_t const high = __reduce_max_sync(kAllLanes, row.high);
  uint32_t const zero_end = __reduce_min_sync(kAllLanes, row.zero_end);
  if (thread % 32 == 0) {
    shared.warp_words[0][warp] = gate;
    shared.warp_words[1][warp] = high;
    shared.warp_words[2][warp] = zero_end;
  }
  BlockSums<kThreads, 1> const sums(shared.warp_sums[0], count);
  uint32_t const start = sums.before[0];
  shared.starts[thread] = start;
  row.count = sums.total[0];
  if (row.count <= kRowCandidates) {
    for (uint32_t i = (start + 31) / 32; 32 * i < start + count[0]; ++i) shared.parts[i] = thread;
  }
  row.key = __reduce_max_sync(kAllLanes, shared.warp_words[0][thread % 32]);
  row.high = __reduce_max_sync(kAllLanes, shared.warp_words[1][thread % 32]);
  row.zero_end = __reduce_min_sync(kAllLanes, shared.warp_words[2][thread % 32]);
  __syncthreads();
  return row;
}

// Candidate threadIdx.x + i * kThreads of the row, in the order of the parts, goes to the same
// place of the list, and its key to keys[i]. Under a gate above zero, zeros from zero_end on are
// none.
__device__ __forceinline__ void load_candidates(SelectStorage const& shared, Candidate const* lists,
                                                int32_t stride, RowGate const& row, Candidate* list,
                                                uint32_t (&keys)[kKeys]) {
  uint32_t const thread = threadIdx.x;
  uint32_t const zero_end = row.key > kZeroKey ? row.zero_end : ~0u;
  uint2 raw[kKeys];
#pragma unroll
  for (int i = 0; i < kKeys; ++i) {
    uint32_t const index = thread + i * kThreads;
    if (index < row.count) {
      uint32_t part = shared.parts[index / 32];
      while (shared.starts[part + 1] <= index) ++part;
      Candidate const* const first = lists + int64_t{part} * stride * kPartCandidates;
      raw[i] = *reinterpret_cast<uint2 const*>(first + (index - shared.starts[part]));
    }
  }
#pragma unroll
  for (int i = 0; i < kKeys; ++i) {
    uint32_t const index = thread + i * kThreads;
    keys[i] = kNoKey;
    if (index < row.count) {
      uint32_t const key = key_of(__uint_as_float(raw[i].x));
      list[index] = Candidate{raw[i].x, raw[i].y};
      keys[i] = key == kZeroKey && raw[i].y >= zero_end ? kNoKey : key;
    }
  }
}

// Where candidates are more than a row holds, those from the row's gate on: what parts of lower
// gates list besides is not needed. Returns how many, which may be too many again. One barrier.
__device__ __noinline__ uint32_t filter_candidates(SelectStorage& shared, Candidate const* lists,
                                                   int32_t stride, int32_t num_parts, uint32_t gate,
                                                   Candidate* list) {
#pragma unroll 1
  for (int32_t part = threadIdx.x / 32; part < num_parts; part += kThreads / 32) {
    Candidate const* const first = lists + int64_t{part} * stride * kPartCandidates;
    uint32_t const count = shared.starts[part + 1] - shared.starts[part];
#pragma unroll 4
    for (uint32_t i = threadIdx.x % 32; i < count; i += 32) {
      uint2 const raw = *reinterpret_cast<uint2 const*>(first + i);
      if (key_of(__uint_as_float(raw.x)) < gate) continue;
      uint32_t const place = atomicAdd(&shared.num_candidates, 1u);
      if (place < kRowCandidates) list[place] = Candidate{raw.x, raw.y};
    }
  }
  __syncthreads();
  return shared.num_candidates;
}

// False if the lists do not settle the row. The caller has prepared the selector.
__device__ __forceinline__ bool select_listed(SelectArgs const& args, SelectStorage& shared,
                                              Selector& selector, Candidate* list,
                                              uint32_t (&keys)[kKeys]) {
  int32_t const rows = args.listing.lengths.next_n;
  int32_t const request = static_cast<int32_t>(blockIdx.x) / rows;
  int64_t const first = part_index(request, shared.parts_of_request.first_block, rows,
                                   static_cast<int32_t>(blockIdx.x) - request * rows);
  RowGate row =
      gather_parts(shared, args.listing.parts + first, rows, shared.parts_of_request.count);
  Candidate const* const lists = args.listing.lists + first * kPartCandidates;
  uint32_t const top_k = static_cast<uint32_t>(args.topk.top_k);
  if (row.count >= kIncomplete || row.count < top_k) return false;
  if (row.count <= kRowCandidates) {
    load_candidates(shared, lists, rows, row, list, keys);
  } else {
    uint32_t const count =
        filter_candidates(shared, lists, rows, shared.parts_of_request.count, row.key, list);
    if (count > kRowCandidates || count < top_k) return false;
    load_keys<kThreads>(keys, list, count, opaque(threadIdx.x));
  }
  Interval interval{row.key, ~row.key, round_shift(max(row.high, row.key) - row.key)};
#pragma unroll 1
  while (!selector.select(keys, interval)) {
    if (row.zero_end == 0) return false;
    row.zero_end = 0;
    interval = Interval{kZeroKey, 0, 0};
  }
  return true;
}

// Scores a row and stores its logits, a part of it each of kScorers groups of warps that do as the
// blocks of the paged kernel do. The block meets before; its last barrier is that of the memory.
template <int kHeads>
__device__ void score_row(ListingArgs const& args, void* memory, int32_t row) {
  using Tile = indexer::PagedTile<kHeads, 1>;
  using Block = indexer::PagedBlock<Tile>;
  uintptr_t const aligned = (reinterpret_cast<uintptr_t>(memory) + 1023) / 1024 * 1024;
  auto* const storages = reinterpret_cast<indexer::PagedStorage<Tile>*>(aligned);
  constexpr int kMathWarps = Block::kMathWarps;
  int const warp = indexer::uniform(static_cast<int32_t>(threadIdx.x) / 32);
  int const lane = static_cast<int>(threadIdx.x) % 32;
  ptx::fence_proxy_async();  // the candidates were there
  if (threadIdx.x < kScorers) indexer::init_paged_barriers(storages[threadIdx.x]);
  __syncthreads();
  // The warps that score take registers of the others, half of all, and give them back.
  constexpr int kLaunchRegisters = 65536 / kThreads;
  static_assert(2 * kScorers * kMathWarps * 32 == kThreads &&
                    Block::kMathRegisters + indexer::kProducerRegisters <= 2 * kLaunchRegisters,
                "The register split must fit what the launch allocates.");
  if (warp < kScorers * kMathWarps) {
    ptx::setmaxnreg_inc<Block::kMathRegisters>();
    indexer::score_paged<Tile>(args, storages[warp / kMathWarps], warp % kMathWarps, lane);
    __syncthreads();  // all of a warpgroup have their registers before any gives some back
    ptx::setmaxnreg_dec<kLaunchRegisters>();
  } else {
    ptx::setmaxnreg_dec<indexer::kProducerRegisters>();
    if (int const part = warp - kScorers * kMathWarps; part < kScorers) {
      indexer::PagedProducer<Tile>(args, storages[part], lane).run_part(row, part, kScorers);
    }
    __syncthreads();
    ptx::setmaxnreg_inc<kLaunchRegisters>();
  }
  // The selection's memory again.
  if (threadIdx.x < kScorers) indexer::invalidate_paged_barriers(storages[threadIdx.x]);
  __syncthreads();
}

// Where word w of the bitmap lies: neighbours in a list are a stratum apart, and would meet in one
// bank.
__device__ __forceinline__ uint32_t word_place(uint32_t word) {
  return word ^ (word / 128 % 8 * 4);
}

// Writes the winners in order of position: bits of a bitmap, sums over its words, and a winner's
// rank is the number of bits before its own. Barriers: the winners; the bits; the sums; the order.
__device__ __forceinline__ void write_winners(KernelArgs const& args, SelectStorage& shared,
                                              Candidate const* list, uint32_t const (&keys)[kKeys],
                                              Verdict const& verdict) {
  int32_t const row = opaque(blockIdx.x);
  uint32_t* const bitmap =
      reinterpret_cast<uint32_t*>(const_cast<Candidate*>(list) + opaque(args.capacity));
  uint16_t* const before = reinterpret_cast<uint16_t*>(bitmap + bitmap_words(args.window_words));
  int32_t* const winners = reinterpret_cast<int32_t*>(before + args.window_words);
  uint32_t* const unordered = reinterpret_cast<uint32_t*>(winners + args.top_k);
  Candidate const* const own = list + opaque(threadIdx.x);
  WinnerRule const wins = winner_rule<kThreads>(shared.bins, shared.warp_sums[0], own, keys,
                                                verdict, shared.row_length);
  uint32_t winning = 0;
#pragma unroll
  for (int i = 0; i < kKeys; ++i) {
    if (keys[i] >= wins.threshold && wins(keys[i], own[i * kThreads].position)) winning |= 1u << i;
  }
  int const lane = threadIdx.x % 32;
  uint32_t const inclusive = ptx::warp_inclusive_sum<uint32_t>(__popc(winning));
  uint32_t place = 0;
  if (lane == 31) place = atomicAdd(&shared.num_winners, inclusive);
  place = __shfl_sync(kAllLanes, place, 31) + inclusive - __popc(winning);
#pragma unroll
  for (int i = 0; i < kKeys; ++i) {
    if (winning & 1u << i) unordered[place++] = own[i * kThreads].position;
  }
  __syncthreads();
  for (uint32_t i = threadIdx.x; i < shared.num_winners; i += kThreads) {
    uint32_t const position = unordered[i];
    atomicOr(&bitmap[word_place(position / 32)], 1u << position % 32);
  }
  __syncthreads();
  uint32_t emitted = 0;
#pragma unroll 1
  for (int first = 0; first < args.window_words; first += 4 * kThreads) {
    int const word = first + 4 * static_cast<int>(threadIdx.x);
    uint32_t const place = word_place(word);
    uint4 quad = make_uint4(0, 0, 0, 0);
    if (word < args.window_words) quad = *reinterpret_cast<uint4 const*>(&bitmap[place]);
    uint32_t const counts[4] = {
        static_cast<uint32_t>(__popc(quad.x)), static_cast<uint32_t>(__popc(quad.y)),
        static_cast<uint32_t>(__popc(quad.z)), static_cast<uint32_t>(__popc(quad.w))};
    uint32_t const sum[1] = {counts[0] + counts[1] + counts[2] + counts[3]};
    BlockSums<kThreads, 1> const sums(shared.warp_sums[1 - first / (4 * kThreads) % 2], sum);
    uint32_t const rank = emitted + sums.before[0];
    uint32_t const second = rank + counts[0];
    uint32_t const third = second + counts[1];
    if (word < args.window_words) {
      *reinterpret_cast<uint2*>(&before[place]) =
          make_uint2(rank | second << 16, third | (third + counts[2]) << 16);
    }
    emitted += sums.total[0];
  }
  __syncthreads();
  for (uint32_t i = threadIdx.x; i < emitted; i += kThreads) {
    uint32_t const position = unordered[i];
    uint32_t const own_word = word_place(position / 32);
    uint32_t const lower = bitmap[own_word] & ((1u << position % 32) - 1);
    winners[before[own_word] + __popc(lower)] = static_cast<int32_t>(position);
  }
  __syncthreads();
  SlotMap const slot(args, row);
  int32_t* const indices = args.indices + int64_t{row} * args.indices_row_stride;
  for (uint32_t i = threadIdx.x; i < emitted; i += kThreads) indices[i] = slot(winners[i]);
}

template <int kHeads>
__global__ void __launch_bounds__(kThreads, 1)
    parts_topk_kernel(__grid_constant__ SelectArgs const args) {
  extern __shared__ __align__(1024) unsigned char memory[];
  SelectStorage& shared = *reinterpret_cast<SelectStorage*>(memory);
  Candidate* const list = reinterpret_cast<Candidate*>(memory + sizeof(SelectStorage));

  clear_bitmap<kThreads>(reinterpret_cast<uint32_t*>(list + args.topk.capacity),
                         args.topk.window_words);
  if (threadIdx.x < 32) {
    int32_t const rows = args.listing.lengths.next_n;
    RequestParts const parts(args.listing, static_cast<int32_t>(gridDim.x) / rows,
                             static_cast<int32_t>(blockIdx.x) / rows, args.listing_blocks);
    if (threadIdx.x == 0) {
      shared.num_winners = 0;
      shared.num_candidates = 0;
      shared.parts_of_request = parts;
      shared.row_length = RowRange(args.topk, blockIdx.x).length;
    }
  }
  __syncthreads();
  Selector selector(shared.select, args.topk.top_k);
  ptx::wait_for_prior_kernels();
  if (threadIdx.x == 0 && args.listing.tickets.words != nullptr) {
    args.listing.tickets.words[blockIdx.x] = 0;  // for a launch repeated by a graph
  }
  if (shared.row_length <= args.topk.top_k) {
    int32_t const row = blockIdx.x;
    write_whole_row<kThreads>(args.topk, RowRange(args.topk, row), SlotMap(args.topk, row), 0, 1,
                              args.topk.indices + int64_t{row} * args.topk.indices_row_stride);
    return;
  }
  uint32_t keys[kKeys];
  if (!select_listed(args, shared, selector, list, keys)) {
    __syncthreads();
    score_row<kHeads>(args.listing, memory + sizeof(SelectStorage), opaque(blockIdx.x));
    Selector anew(shared.select);
    gated::Assignment<LogitsType::kFloat32> const own(args.topk, opaque(blockIdx.x), 1);
    gated::Sample<LogitsType::kFloat32, kThreads> sample(own.logits, own.range.length);
    gated::prepare_listing(args.topk, shared, list, anew);
    gated::list_passing(args.topk, shared, list, own, sample, anew);
    uint32_t const count = gated::settle<LogitsType::kFloat32>(args.topk, shared, list, anew, keys,
                                                               [] { return false; });
    load_keys<kThreads>(keys, list, count, opaque(threadIdx.x));
  }
  write_winners(args.topk, shared, list, keys, shared.select.verdict);
}

}  // namespace dsa_ops::topk_sm90::listed
