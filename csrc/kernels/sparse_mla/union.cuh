// Union of the index lists of a pack of rows.
//
// One thread block per pack. Shared memory holds a byte for every key of a window; bit j of it says
// that row j selects the key. The rows set their bits in any order, then the bytes that are not zero
// are the union, read off in ascending order. Keys beyond the window take another round.
#pragma once
#include "kernels/sparse_mla/union.h"

namespace dsa_ops::sparse_mla {

inline constexpr int kUnionThreads = 512;
inline constexpr int kUnionWarps = kUnionThreads / 32;
// Keys of a window: two thread blocks share a multiprocessor.
inline constexpr int kUnionWindow = 96 << 10;
inline constexpr int kMaxUnionWindows = 16;
inline constexpr int kUnionStep = 512;  // keys that a warp reads at a time, 16 a lane
static_assert(kUnionWindow % (kUnionWarps * kUnionStep) == 0, "every warp reads whole steps");
static_assert(kUnionWindow * kMaxUnionWindows <= 1 << 24, "an entry has 24 bits for its key");

struct UnionCounts {
  int keys;     // of the union
  int members;  // entries of the lists
};

struct UnionStorage {
  UnionCounts warp[kUnionWarps];
  uint32_t first_key, last_key;
  uint4 map[];  // a byte per key
};

// The part of one row's list that this warp reads.
struct UnionList {
  int32_t const* entries;
  int first, step, length;
  int row;  // of the pack

  __device__ UnionList(UnionArgs const& args, int64_t first_row, int rows) {
    int const warp = threadIdx.x >> 5;
    row = warp % rows;
    int const part = warp / rows;
    int const parts = (kUnionWarps - 1 - row) / rows + 1;
    entries = args.indices + (first_row + row) * args.indices_row_stride;
    length = args.top_k;
    if (args.topk_lens) length = min(length, max(args.topk_lens[first_row + row], 0));
    first = part * 32 + (threadIdx.x & 31);
    step = parts * 32;
  }

  // Calls `use` with every entry below `num_keys`.
  template <class Use>
  __device__ __forceinline__ void for_each(uint32_t num_keys, Use const& use) const {
    constexpr int kInFlight = 8;
    for (int start = first; start < length; start += kInFlight * step) {
      uint32_t key[kInFlight];
#pragma unroll
      for (int i = 0; i < kInFlight; ++i) {
        int const position = start + i * step;
        key[i] = position < length ? static_cast<uint32_t>(__ldg(entries + position)) : UINT32_MAX;
      }
#pragma unroll
      for (int i = 0; i < kInFlight; ++i) {
        if (key[i] < num_keys) use(key[i]);
      }
    }
  }
};

// Bit 7 of every byte that is not zero.
__device__ __forceinline__ uint32_t nonzero_bytes(uint32_t word) {
  return (((word & 0x7F7F7F7Fu) + 0x7F7F7F7Fu) | word) & 0x80808080u;
}

// The first and the last key that the pack selects; first > last if there is none.
__device__ void find_key_range(UnionStorage& shared, UnionList const& list, uint32_t num_keys) {
  if (threadIdx.x == 0) {
    shared.first_key = UINT32_MAX;
    shared.last_key = 0;
  }
  __syncthreads();
  uint32_t first = UINT32_MAX, last = 0;
  list.for_each(num_keys, [&](uint32_t key) {
    first = min(first, key);
    last = max(last, key);
  });
  first = __reduce_min_sync(0xFFFFFFFFu, first);
  last = __reduce_max_sync(0xFFFFFFFFu, last);
  if ((threadIdx.x & 31) == 0) {
    atomicMin(&shared.first_key, first);
    atomicMax(&shared.last_key, last);
  }
  __syncthreads();
}

// Marks the members of the keys in [window, window + extent). False for every thread if a row
// selects one of them twice.
__device__ bool mark_members(UnionStorage& shared, UnionList const& list, uint32_t num_keys,
                             uint32_t window, uint32_t extent, int map_bytes) {
  for (int i = threadIdx.x; i < map_bytes / 16; i += kUnionThreads) {
    shared.map[i] = make_uint4(0, 0, 0, 0);
  }
  __syncthreads();
  auto* const words = reinterpret_cast<uint32_t*>(shared.map);
  uint32_t repeated = 0;
  list.for_each(num_keys, [&](uint32_t key) {
    uint32_t const offset = key - window;
    if (offset >= extent) return;
    uint32_t const bit = 1u << ((offset & 3) * 8 + list.row);
    repeated |= atomicOr(words + (offset >> 2), bit) & bit;
  });
  return __syncthreads_or(repeated != 0) == 0;
}

__device__ UnionCounts count_keys(UnionStorage const& shared, int first_step, int num_steps) {
  UnionCounts counts = {0, 0};
  for (int step = first_step; step < first_step + num_steps; ++step) {
    uint4 const quad = shared.map[step * 32 + (threadIdx.x & 31)];
    for (uint32_t word : {quad.x, quad.y, quad.z, quad.w}) {
      counts.keys += __popc(nonzero_bytes(word));
      counts.members += __popc(word);
    }
  }
  counts.keys = __reduce_add_sync(0xFFFFFFFFu, counts.keys);
  counts.members = __reduce_add_sync(0xFFFFFFFFu, counts.members);
  return counts;
}

// Writes the union's entries of this warp's steps to `target`; `first_key` is the key of the map's
// first byte, relative to the union's first.
__device__ void write_entries(UnionStorage const& shared, int first_step, int num_steps,
                              uint32_t first_key, uint32_t* target) {
  int const lane = threadIdx.x & 31;
  auto const* const words = reinterpret_cast<uint32_t const*>(shared.map);
  for (int step = first_step; step < first_step + num_steps; ++step) {
    uint32_t word[4];
    uint32_t own = 0;  // keys in this lane's words, a byte each
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      word[i] = words[step * 128 + i * 32 + lane];
      own |= __popc(nonzero_bytes(word[i])) << (8 * i);
    }
    uint32_t sums = own;
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
      uint32_t const below = __shfl_up_sync(0xFFFFFFFFu, sums, offset);
      if (lane >= offset) sums += below;
    }
    uint32_t const totals = __shfl_sync(0xFFFFFFFFu, sums, 31);
    uint32_t const before = sums - own;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      uint32_t* position = target + (before >> (8 * i) & 0xFF);
      uint32_t const key = first_key + step * kUnionStep + (i * 32 + lane) * 4;
#pragma unroll
      for (int byte = 0; byte < 4; ++byte) {
        uint32_t const members = word[i] << (24 - 8 * byte) & 0xFF000000u;
        if (members) *position++ = members | (key + byte);
      }
      target += totals >> (8 * i) & 0xFF;
    }
  }
}

// The length of the pack's union, 0 if the rows are not to be packed.
__device__ int build_union(UnionStorage& shared, UnionArgs const& args, UnionList const& list,
                           uint32_t num_keys, uint32_t first_key, uint32_t last_key,
                           uint32_t* entries) {
  if (first_key > last_key) return 0;
  if (last_key - first_key >= kUnionWindow * kMaxUnionWindows) return 0;
  int const warp = threadIdx.x >> 5;
  UnionCounts total = {0, 0};
  for (uint32_t window = first_key;; window += kUnionWindow) {
    uint32_t const extent = min(last_key - window + 1, kUnionWindow);
    int const warp_steps = (extent - 1) / (kUnionWarps * kUnionStep) + 1;
    int const map_bytes = warp_steps * kUnionWarps * kUnionStep;
    if (!mark_members(shared, list, num_keys, window, extent, map_bytes)) return 0;
    UnionCounts const counts = count_keys(shared, warp * warp_steps, warp_steps);
    if ((threadIdx.x & 31) == 0) shared.warp[warp] = counts;
    __syncthreads();
    int position = total.keys;
#pragma unroll
    for (int i = 0; i < kUnionWarps; ++i) {
      if (i < warp) position += shared.warp[i].keys;
      total.keys += shared.warp[i].keys;
      total.members += shared.warp[i].members;
    }
    bool const last = last_key - window < kUnionWindow;
    if (total.keys > args.capacity) return 0;
    if (last && total.keys > args.max_share * total.members) return 0;
    write_entries(shared, warp * warp_steps, warp_steps, window - first_key, entries + position);
    if (last) return total.keys;
    __syncthreads();  // the map and the counts are overwritten
  }
}

__global__ void __launch_bounds__(kUnionThreads, 2)
    union_kernel(__grid_constant__ const UnionArgs args) {
  extern __shared__ uint4 raw_storage[];
  auto& shared = *reinterpret_cast<UnionStorage*>(raw_storage);
  int64_t const pack = blockIdx.x;
  int64_t const first_row = pack * args.pack_rows;
  int const rows = static_cast<int>(min(int64_t{args.pack_rows}, args.num_rows - first_row));
  UnionList const list(args, first_row, rows);
  uint32_t const num_keys = static_cast<uint32_t>(min(args.num_keys, int64_t{1} << 31));
  uint32_t first_key = 0, last_key = num_keys - 1;
  if (num_keys > kUnionWindow) {
    find_key_range(shared, list, num_keys);
    first_key = shared.first_key;
    last_key = shared.last_key;
  }
  int const length = build_union(shared, args, list, num_keys, first_key, last_key,
                                 args.entries + pack * args.capacity);
  if (threadIdx.x == 0) args.headers[pack] = {length, static_cast<int32_t>(first_key)};
}

}  // namespace dsa_ops::sparse_mla
