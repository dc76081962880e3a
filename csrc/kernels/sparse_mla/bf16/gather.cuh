// The gathering warpgroup: query tiles and pairs of blocks of tokens into shared memory.
#pragma once
#include "device/ptx/copy.cuh"
#include "device/ptx/mbarrier.cuh"
#include "kernels/sparse_mla/bf16/tile.cuh"

namespace dsa_ops::sparse_mla::bf16 {

// Copies 16 bytes, or zeros without reading. The other head tile of the row, or the rows after it,
// will want the same line.
__device__ __forceinline__ void copy_16(uint32_t target, uint8_t const* source, bool valid,
                                        uint64_t policy) {
  asm volatile(
      "cp.async.cg.shared.global.L2::cache_hint.L2::128B [%0], [%1], 16, %2, %3;" ::"r"(target),
      "l"(source), "r"(valid ? 16 : 0), "l"(policy)
      : "memory");
}

// Eight lanes copy a row, 16 bytes each; a thread has rows r, r + 16, r + 32 and r + 48.
template <class Source>
struct Gather {
  static constexpr int kPanels = Source::kHeadDim / 64;
  static constexpr int kRows = 4;
  static constexpr int kRowStep = 16;

  SharedStorage& shared;
  KernelArgs const& args;
  int const thread;
  uint64_t const policy;  // of the L2

  // Rows that a thread copies; bit i of `exists` says whether row i is more than zeros.
  struct Rows {
    uint8_t const* source[kRows];
    uint32_t exists;
    uint32_t selects;  // bit i: row thread % 8 of the pack sees it
  };

  __device__ __forceinline__ int row_of(int i) const { return (thread >> 3) + i * kRowStep; }

  template <int kFirst, int kLast>
  __device__ __forceinline__ void copy(uint8_t (*panels)[kPanelBytes], Rows const& rows) const {
    int const row = thread >> 3;
    uint32_t const target = ptx::shared_address(panels) + row * 128 + (((thread ^ row) & 7) << 4);
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
#pragma unroll
      for (int panel = kFirst; panel < kLast; ++panel) {
        copy_16(target + panel * kPanelBytes + i * kRowStep * 128, rows.source[i] + panel * 128,
                rows.exists >> i & 1, policy);
      }
    }
  }

  template <int kHalf>
  __device__ __forceinline__ void copy_query(Tile<Source> const& tile) const {
    copy<kHalf == kLeft ? 0 : kHalfPanels, kHalf == kLeft ? kHalfPanels : kPanels>(
        shared.query, query_rows(tile));
    ptx::cp_async_mbarrier_arrive_noinc(&shared.query_full[kHalf]);
  }

  template <int kQuarter>
  __device__ __forceinline__ void copy_quarter(int stage, Rows const& rows) const {
    using Panels = QuarterPanels<kQuarter, kPanels>;
    copy<Panels::kFirst, Panels::kLast>(shared.kv[stage], rows);
    ptx::cp_async_mbarrier_arrive_noinc(&shared.kv_full[stage][kQuarter]);
  }

  // Half of a block once it is free.
  template <int kHalf>
  __device__ __forceinline__ void copy_tokens(int stage, Rows const& rows, uint32_t phase) const {
    ptx::mbarrier_wait(&shared.kv_empty[stage][kHalf], phase ^ 1);
    if constexpr (kHalf == kRight) publish_valid(stage, rows);
    copy_quarter<2 * kHalf>(stage, rows);
    copy_quarter<2 * kHalf + 1>(stage, rows);
  }

  __device__ __forceinline__ Rows query_rows(Tile<Source> const& tile) const {
    Rows rows;
    rows.exists = 0;
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      TileRow const at(tile, row_of(i));
      int64_t const offset =
          (tile.row + at.member) * args.q_row_stride + at.head * args.q_head_stride;
      rows.source[i] =
          reinterpret_cast<uint8_t const*>(args.q + (at.exists ? offset : 0)) + (thread & 7) * 16;
      rows.exists |= uint32_t{at.exists} << i;
    }
    return rows;
  }

  // Entries of a block as they stand in the list, negative past its end, and their members (all
  // without packs). A pair ahead: whoever looks at an entry waits for its load.
  struct Entries {
    int32_t keys[kRows];
    uint8_t members[kRows];
  };

  __device__ __forceinline__ void load_entries(Tile<Source> const& tile, int block,
                                               Entries& entries) const {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      int const position = block * kBlockTokens + row_of(i);
      bool const exists = position < tile.length;
      entries.keys[i] = exists ? __ldg(tile.entries + position) : -1;
      entries.members[i] =
          Source::kPacks && tile.members && exists ? __ldg(tile.members + position) : 255;
    }
  }

  // Where the row of a key starts; of the first one for an empty entry, which reads nothing.
  __device__ __forceinline__ uint8_t const* row_address(uint32_t key) const {
    if constexpr (Source::kPaged) {
      uint32_t const page = key / args.page_size;
      return args.kv + page * args.kv_stride_bytes +
             (key - page * args.page_size) * int64_t{Source::kHeadDim * 2};
    } else {
      return args.kv + key * args.kv_stride_bytes;
    }
  }

  __device__ __forceinline__ Rows token_rows(Entries const& entries) const {
    uint32_t const num_keys = static_cast<uint32_t>(min(args.num_keys, int64_t{1} << 31));
    Rows rows;
    rows.exists = 0;
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      uint32_t const key = static_cast<uint32_t>(entries.keys[i]);
      bool const exists = key < num_keys;
      rows.source[i] = row_address(exists ? key : 0) + (thread & 7) * 16;
      rows.exists |= uint32_t{exists} << i;
    }
    // Which of them row thread % 8 of the pack selects.
    rows.selects = 0;
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      rows.selects |= (uint32_t{entries.members[i]} >> (thread & 7) & 1) << i;
    }
    rows.selects &= rows.exists;
    return rows;
  }

  // A row of the pack for each of the first eight lanes: the tokens that it sees.
  __device__ __forceinline__ void publish_valid(int stage, Rows const& rows) const {
    int const lane = thread & 31;
    uint32_t word = 0;
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      // Bit 8 j + m: member m sees token j of the four of this warp.
      uint32_t const vote = __ballot_sync(0xFFFFFFFFu, rows.selects >> i & 1) >> (lane & 7);
      uint32_t const four = (vote & 1) | (vote >> 7 & 2) | (vote >> 14 & 4) | (vote >> 21 & 8);
      word |= four << (4 * i);
    }
    if (lane < kMaxPackRows) shared.valid[stage][lane][thread >> 5] = static_cast<uint16_t>(word);
    __syncwarp();
    if (lane == 0) ptx::mbarrier_arrive(&shared.kv_full[stage][kQuarters - 1]);
  }

  __device__ void run() {
    uint32_t const tiles = num_tiles<Source>(args);
    uint32_t phase = 0, query_phase = 0;
    uint32_t index = next_tile<Source>(args, blockIdx.x, tiles);
    if (index >= tiles) return;
    Tile<Source> tile(args, index);
    Entries entries[2];
    load_entries(tile, 0, entries[0]);
    load_entries(tile, 1, entries[1]);
    while (true) {
      for (int pair = 0; pair < tile.num_pairs; ++pair) {
        Rows rows = token_rows(entries[0]);
        if (pair == 0) {
          ptx::mbarrier_wait(&shared.query_empty, query_phase ^ 1);
          copy_query<kLeft>(tile);
        }
        copy_tokens<kLeft>(0, rows, phase);
        if (pair == 0) {
          copy_query<kRight>(tile);
          query_phase ^= 1;
        }
        copy_tokens<kRight>(0, rows, phase);
        rows = token_rows(entries[1]);
        static_assert(first_half(0) == kLeft && first_half(1) == kRight);
        copy_tokens<kRight>(1, rows, phase);
        copy_tokens<kLeft>(1, rows, phase);
        // Here the copies have time: the next half is not free for another 2,500 clocks.
        if (pair + 1 < tile.num_pairs) {
          load_entries(tile, 2 * pair + 2, entries[0]);
          load_entries(tile, 2 * pair + 3, entries[1]);
        }
        phase ^= 1;
      }
      index = next_tile<Source>(args, index + gridDim.x, tiles);
      if (index >= tiles) break;
      tile = Tile<Source>(args, index);
      load_entries(tile, 0, entries[0]);
      load_entries(tile, 1, entries[1]);
    }
  }
};

}  // namespace dsa_ops::sparse_mla::bf16
