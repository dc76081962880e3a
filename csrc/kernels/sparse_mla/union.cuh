// Union of the index lists of a pack of rows.
//
// One thread block per pack. Shared memory maps a window of keys, a field of bits for every key and
// in it a bit for every row. The rows set their bits in any order; then the fields that are not
// zero are read off, in ascending order. Keys beyond the window take another round.
#pragma once
#include "kernels/sparse_mla/union.h"

namespace dsa_ops::sparse_mla {

inline constexpr int kUnionThreads = 256;
inline constexpr int kUnionWarps = kUnionThreads / 32;
inline constexpr int kMapBytes = 32 << 10;
inline constexpr int kPartKeys = 32 * kUnionThreads;  // read off at a time, 32 by a thread
inline constexpr int kMaxWindows = 32;                // more are not worth their time

// A group of 32 keys has kBits words: key j of it the field from bit j - j % kBits of word
// j % kBits. Shifted by their places and joined, the lowest bits of a group's fields are in order.
template <int kBits>
struct KeyMap {
  static constexpr uint32_t kWindow = kMapBytes / 4 / kBits * 32;
  static constexpr uint32_t kFieldMask = (1u << kBits) - 1;

  __device__ static __forceinline__ uint32_t word(uint32_t key) {
    return key / 32 * kBits + key % kBits;
  }
  __device__ static __forceinline__ uint32_t shift(uint32_t key) {
    return key % 32 / kBits * kBits;
  }
  // The lowest bit of every field that is not zero.
  __device__ static __forceinline__ uint32_t nonzero(uint32_t word) {
#pragma unroll
    for (int bits = kBits / 2; bits >= 1; bits /= 2) word |= word >> bits;
    return word & (kBits == 2 ? 0x55555555u : kBits == 4 ? 0x11111111u : 0x01010101u);
  }
};

struct UnionStorage {
  uint16_t order[kPartKeys];  // keys of a part
  int part_keys[kUnionWarps];
  uint32_t first_key, last_key;
  // So far.
  int num_keys;     // of the union
  int num_members;  // entries of the lists
  int repeated;
  alignas(16) uint32_t map[];  // of a window, or of all keys if they are fewer
};

__device__ __forceinline__ int list_length(UnionArgs const& args, int64_t row) {
  return args.topk_lens ? min(args.top_k, max(args.topk_lens[row], 0)) : args.top_k;
}

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
    length = list_length(args, first_row + row);
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

// The first and the last key that the pack selects; first > last if there is none.
__device__ inline void find_key_range(UnionStorage& shared, UnionList const& list,
                                      uint32_t num_keys) {
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

// Marks the members of the `extent` keys from `window` on, and counts.
template <int kBits>
__device__ void mark_members(UnionStorage& shared, UnionList const& list, uint32_t num_keys,
                             uint32_t window, uint32_t extent, int num_parts) {
  using Map = KeyMap<kBits>;
  for (int i = threadIdx.x * 4; i < num_parts * kPartKeys / 32 * kBits; i += kUnionThreads * 4) {
    *reinterpret_cast<uint4*>(shared.map + i) = make_uint4(0, 0, 0, 0);
  }
  __syncthreads();
  uint32_t keys = 0, members = 0, repeated = 0;
  list.for_each(num_keys, [&](uint32_t key) {
    uint32_t const offset = key - window;
    if (offset >= extent) return;
    uint32_t const shift = Map::shift(offset);
    uint32_t const others =
        atomicOr(shared.map + Map::word(offset), 1u << list.row << shift) >> shift;
    keys += (others & Map::kFieldMask) == 0;
    members += 1;
    repeated |= others >> list.row & 1;
  });
  keys = __reduce_add_sync(0xFFFFFFFFu, keys);
  members = __reduce_add_sync(0xFFFFFFFFu, members);
  repeated = __reduce_or_sync(0xFFFFFFFFu, repeated);
  if ((threadIdx.x & 31) == 0) {
    atomicAdd(&shared.num_keys, keys);
    atomicAdd(&shared.num_members, members);
    if (repeated) shared.repeated = 1;
  }
  __syncthreads();
}

// Writes the keys of a part of the map, the first of which is `first`, and their members; returns
// their number. They are put in order in shared memory first, so that they leave in whole sectors:
// scattered, the writes took longer than everything else (H100, 2026-11-22).
template <int kBits>
__device__ int write_part(UnionStorage& shared, uint32_t const* map, int32_t first, int32_t* keys,
                          uint8_t* members) {
  using Map = KeyMap<kBits>;
  int const lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  uint32_t own = 0;  // bit j: key j of this thread's group
#pragma unroll
  for (int i = 0; i < kBits; ++i) own |= Map::nonzero(map[threadIdx.x * kBits + i]) << i;
  int sum = __popc(own);
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    int const below = __shfl_up_sync(0xFFFFFFFFu, sum, offset);
    if (lane >= offset) sum += below;
  }
  if (lane == 31) shared.part_keys[warp] = sum;
  __syncthreads();
  int before = sum - __popc(own), total = 0;
#pragma unroll
  for (int i = 0; i < kUnionWarps; ++i) {
    if (i < warp) before += shared.part_keys[i];
    total += shared.part_keys[i];
  }
  for (uint16_t* position = shared.order + before; own; own &= own - 1) {
    *position++ = static_cast<uint16_t>(threadIdx.x * 32 + __ffs(own) - 1);
  }
  __syncthreads();
  for (int i = threadIdx.x; i < total; i += kUnionThreads) {
    uint32_t const key = shared.order[i];
    keys[i] = first + key;
    members[i] = map[Map::word(key)] >> Map::shift(key) & Map::kFieldMask;
  }
  return total;
}

// The number of keys in the pack's union, 0 if its rows are to attend one by one.
template <int kBits>
__device__ int build_union(UnionStorage& shared, UnionArgs const& args, UnionList const& list,
                           uint32_t num_keys, int32_t* keys, uint8_t* members) {
  constexpr uint32_t kWindow = KeyMap<kBits>::kWindow;
  uint32_t const first_key = shared.first_key, last_key = shared.last_key;
  if (first_key > last_key || last_key - first_key >= kWindow * kMaxWindows) return 0;
  int written = 0;
  for (uint32_t window = first_key;; window += kWindow) {
    bool const last = last_key - window < kWindow;
    uint32_t const extent = last ? last_key - window + 1 : kWindow;
    int const num_parts = (extent - 1) / kPartKeys + 1;
    mark_members<kBits>(shared, list, num_keys, window, extent, num_parts);
    int const total = shared.num_keys;
    if (shared.repeated || total > args.unions.capacity) return 0;
    // The first windows speak for the rest, once they hold as many entries as a row.
    bool const decides = last || shared.num_members >= args.top_k;
    if (decides && total > args.max_share * shared.num_members) return 0;
    for (int part = 0; part < num_parts; ++part) {
      written += write_part<kBits>(shared, shared.map + part * (kPartKeys / 32 * kBits),
                                   window + part * kPartKeys, keys + written, members + written);
    }
    if (last) return total;
    __syncthreads();  // the map is overwritten
  }
}

// The tile of row `member` of the pack, or of the pack if its union has a length.
__device__ inline void write_tile(UnionArgs const& args, int64_t pack, int member, int length) {
  int64_t const row = pack * args.pack_rows + member;
  PackTile tile = {0, -1};
  if (length > 0) {
    if (member == 0) tile = {~static_cast<int32_t>(pack), length};
  } else if (row < args.num_rows) {
    tile = {static_cast<int32_t>(row), list_length(args, row)};
  }
  int64_t const position =
      member == 0 ? pack : gridDim.x + pack * (args.pack_rows - 1) + member - 1;
  args.unions.tiles[position] = tile;
  args.unions.repairs[position] = {0, -1};
}

template <int kBits>
__global__ void __launch_bounds__(kUnionThreads, 6)
    union_kernel(__grid_constant__ const UnionArgs args) {
  extern __shared__ uint4 raw_storage[];
  auto& shared = *reinterpret_cast<UnionStorage*>(raw_storage);
  int64_t const pack = blockIdx.x;
  int64_t const first_row = pack * args.pack_rows;
  int const rows = static_cast<int>(min(int64_t{args.pack_rows}, args.num_rows - first_row));
  UnionList const list(args, first_row, rows);
  uint32_t const num_keys = static_cast<uint32_t>(min(args.num_keys, int64_t{1} << 31));
  bool const maps_all = num_keys <= KeyMap<kBits>::kWindow;
  if (threadIdx.x == 0) {
    shared.first_key = maps_all ? 0 : UINT32_MAX;
    shared.last_key = maps_all ? num_keys - 1 : 0;
    shared.num_keys = shared.num_members = shared.repeated = 0;
  }
  __syncthreads();
  if (!maps_all) find_key_range(shared, list, num_keys);
  int32_t* const keys = args.unions.keys + pack * args.unions.capacity;
  uint8_t* const members = args.unions.members + pack * args.unions.capacity;
  int const count = build_union<kBits>(shared, args, list, num_keys, keys, members);
  int const length = (count + 63) / 64 * 64;
  if (count + static_cast<int>(threadIdx.x) < length) {
    keys[count + threadIdx.x] = -1;
    members[count + threadIdx.x] = 0;
  }
  if (threadIdx.x < args.pack_rows) write_tile(args, pack, threadIdx.x, length);
  if (pack == 0 && threadIdx.x == 0) *args.unions.leaked = 0;
}

}  // namespace dsa_ops::sparse_mla
