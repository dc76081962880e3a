// Union of the index lists of a pack of rows.
//
// One thread block per pack. Shared memory maps a window of keys, a field of bits for every key and
// in it a bit for every row. The rows set their bits in any order; then the fields that are not zero
// are read off, in ascending order. Keys beyond the window take another round.
#pragma once
#include "kernels/sparse_mla/union.h"

namespace dsa_ops::sparse_mla {

inline constexpr int kUnionThreads = 256;
inline constexpr int kUnionWarps = kUnionThreads / 32;
inline constexpr int kMapBytes = 32 << 10;  // five thread blocks share a multiprocessor
inline constexpr int kMaxWindows = 32;      // more are not worth their time
inline constexpr int kStepWords = 32;       // that a warp writes at a time
static_assert(kMapBytes / 4 % (kUnionWarps * kStepWords) == 0, "every warp reads whole steps");

// A map word holds a field of kBits for each of kKeys neighbouring keys.
template <int kBits>
struct Field {
  static constexpr int kKeys = 32 / kBits;
  static constexpr uint32_t kWindow = kMapBytes / 4 * kKeys;

  // The lowest bit of every field that is not zero.
  __device__ static __forceinline__ uint32_t nonzero(uint32_t word) {
#pragma unroll
    for (int bits = kBits / 2; bits >= 1; bits /= 2) word |= word >> bits;
    return word & (kBits == 2 ? 0x55555555u : kBits == 4 ? 0x11111111u : 0x01010101u);
  }
};

struct UnionCounts {
  int keys;     // of the union
  int members;  // entries of the lists
};

struct UnionStorage {
  uint32_t map[kMapBytes / 4];
  uint16_t order[kUnionWarps][kStepWords * 16];
  UnionCounts warp[kUnionWarps];
  uint32_t first_key, last_key;
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

// The first and the last key that the pack selects; first > last if there is none.
__device__ inline void find_key_range(UnionStorage& shared, UnionList const& list,
                                      uint32_t num_keys) {
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

// Marks the members of the `extent` keys from `window` on. False for every thread if a row
// selects one of them twice.
template <int kBits>
__device__ bool mark_members(UnionStorage& shared, UnionList const& list, uint32_t num_keys,
                             uint32_t window, uint32_t extent, int num_words) {
  for (int i = threadIdx.x * 4; i < num_words; i += kUnionThreads * 4) {
    *reinterpret_cast<uint4*>(shared.map + i) = make_uint4(0, 0, 0, 0);
  }
  __syncthreads();
  uint32_t repeated = 0;
  list.for_each(num_keys, [&](uint32_t key) {
    uint32_t const offset = key - window;
    if (offset >= extent) return;
    constexpr uint32_t kKeys = Field<kBits>::kKeys;
    uint32_t const bit = 1u << (offset % kKeys * kBits + list.row);
    repeated |= atomicOr(shared.map + offset / kKeys, bit) & bit;
  });
  return __syncthreads_or(repeated != 0) == 0;
}

template <int kBits>
__device__ UnionCounts count_keys(uint32_t const* words, int num_words) {
  UnionCounts counts = {0, 0};
#pragma unroll 4
  for (int i = threadIdx.x & 31; i < num_words; i += kStepWords) {
    counts.keys += __popc(Field<kBits>::nonzero(words[i]));
    counts.members += __popc(words[i]);
  }
  counts.keys = __reduce_add_sync(0xFFFFFFFFu, counts.keys);
  counts.members = __reduce_add_sync(0xFFFFFFFFu, counts.members);
  return counts;
}

// Writes the keys of this warp's words, the first of which is `key`, and their members. The keys of
// a step are put in order in shared memory first, so that they leave in whole sectors: scattered,
// the writes took longer than everything else (H100, 2026-11-22).
template <int kBits>
__device__ void write_keys(uint32_t const* words, int num_words, uint16_t* order, int32_t key,
                           int32_t* keys, uint8_t* members) {
  constexpr int kKeys = Field<kBits>::kKeys;
  int const lane = threadIdx.x & 31;
  for (int step = 0; step < num_words; step += kStepWords, key += kStepWords * kKeys) {
    uint32_t left = Field<kBits>::nonzero(words[step + lane]);
    if (!__any_sync(0xFFFFFFFFu, left != 0)) continue;
    int const own = __popc(left);
    int sum = own;
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
      int const below = __shfl_up_sync(0xFFFFFFFFu, sum, offset);
      if (lane >= offset) sum += below;
    }
    int const total = __shfl_sync(0xFFFFFFFFu, sum, 31);
    for (uint16_t* position = order + sum - own; left; left &= left - 1) {
      *position++ = static_cast<uint16_t>(lane * kKeys + (__ffs(left) - 1) / kBits);
    }
    __syncwarp();
    for (int i = lane; i < total; i += 32) {
      int const offset = order[i];
      uint32_t const word = words[step + offset / kKeys];
      keys[i] = key + offset;
      members[i] = word >> (offset % kKeys * kBits) & ((1 << kBits) - 1);
    }
    __syncwarp();
    keys += total;
    members += total;
  }
}

// The number of keys in the pack's union, 0 if the rows are not to be packed.
template <int kBits>
__device__ int build_union(UnionStorage& shared, UnionArgs const& args, UnionList const& list,
                           uint32_t num_keys, uint32_t first_key, uint32_t last_key, int32_t* keys,
                           uint8_t* members) {
  constexpr uint32_t kWindow = Field<kBits>::kWindow;
  if (first_key > last_key || last_key - first_key >= kWindow * kMaxWindows) return 0;
  int const warp = threadIdx.x >> 5;
  UnionCounts total = {0, 0};
  for (uint32_t window = first_key;; window += kWindow) {
    bool const last = last_key - window < kWindow;
    uint32_t const extent = last ? last_key - window + 1 : kWindow;
    int const warp_words =
        ((extent - 1) / (Field<kBits>::kKeys * kUnionWarps * kStepWords) + 1) * kStepWords;
    uint32_t const* const words = shared.map + warp * warp_words;
    if (!mark_members<kBits>(shared, list, num_keys, window, extent, warp_words * kUnionWarps)) {
      return 0;
    }
    UnionCounts const counts = count_keys<kBits>(words, warp_words);
    if ((threadIdx.x & 31) == 0) shared.warp[warp] = counts;
    __syncthreads();
    int position = total.keys;
#pragma unroll
    for (int i = 0; i < kUnionWarps; ++i) {
      if (i < warp) position += shared.warp[i].keys;
      total.keys += shared.warp[i].keys;
      total.members += shared.warp[i].members;
    }
    // The first windows speak for the rest, once they hold as many entries as a row.
    bool const decides = last || total.members >= args.top_k;
    if (decides && total.keys > args.max_share * total.members) return 0;
    if (total.keys > args.unions.capacity) return 0;
    write_keys<kBits>(words, warp_words, shared.order[warp],
                      window + warp * warp_words * Field<kBits>::kKeys, keys + position,
                      members + position);
    if (last) return total.keys;
    __syncthreads();  // the map and the counts are overwritten
  }
}

template <int kBits>
__global__ void __launch_bounds__(kUnionThreads, 5)
    union_kernel(__grid_constant__ const UnionArgs args) {
  extern __shared__ uint4 raw_storage[];
  auto& shared = *reinterpret_cast<UnionStorage*>(raw_storage);
  int64_t const pack = blockIdx.x;
  int64_t const first_row = pack * args.pack_rows;
  int const rows = static_cast<int>(min(int64_t{args.pack_rows}, args.num_rows - first_row));
  UnionList const list(args, first_row, rows);
  uint32_t const num_keys = static_cast<uint32_t>(min(args.num_keys, int64_t{1} << 31));
  uint32_t first_key = 0, last_key = num_keys - 1;
  if (num_keys > Field<kBits>::kWindow) {
    find_key_range(shared, list, num_keys);
    first_key = shared.first_key;
    last_key = shared.last_key;
  }
  int32_t* const keys = args.unions.keys + pack * args.unions.capacity;
  uint8_t* const members = args.unions.members + pack * args.unions.capacity;
  int const count = build_union<kBits>(shared, args, list, num_keys, first_key, last_key, keys,
                                       members);
  int const length = (count + 63) / 64 * 64;
  if (count + static_cast<int>(threadIdx.x) < length) {
    keys[count + threadIdx.x] = -1;
    members[count + threadIdx.x] = 0;
  }
  if (threadIdx.x == 0) args.unions.lengths[pack] = length;
  if (pack == 0 && threadIdx.x == 0) *args.unions.leaked = 0;
}

}  // namespace dsa_ops::sparse_mla
