// The gathering warpgroup: fills the kv stages with 64 tokens each, bf16 values in 128B-swizzled
// panels of 64 dims, and the tokens' masks.
//
// Row r of a panel is 128 bytes; its 16-byte chunk c lies at chunk c ^ (r & 7).
#pragma once
#include "device/ptx/copy.cuh"
#include "device/ptx/mbarrier.cuh"
#include "kernels/sparse_mla/kernel_args.h"
#include "kernels/sparse_mla/traits.h"

namespace dsa_ops::sparse_mla {

// The part of a row's index list, or the union of a pack's lists, that this thread block works on.
struct IndexList {
  int32_t const* entries;
  uint8_t const* members;  // of a union's entries, else null
  int32_t length;          // entries at and after it are empty
  int32_t num_blocks;      // of 64 entries
  uint32_t num_keys;       // at most 2^31, above every index

  // An entry of a block as it stands in the list, negative past its end.
  __device__ __forceinline__ int32_t entry(int block, int offset) const {
    int const position = block * kBlockTokens + offset;
    return position < length ? __ldg(entries + position) : -1;
  }

  // Bit j: row j of the tile selects the entry.
  __device__ __forceinline__ uint32_t members_of(int block, int offset) const {
    int const position = block * kBlockTokens + offset;
    return members && position < length ? __ldg(members + position) : 1;
  }

  // Apart from entry(), which is called a block ahead: whoever looks at an entry waits for its
  // load.
  __device__ __forceinline__ bool is_key(int32_t entry) const {
    return static_cast<uint32_t>(entry) < num_keys;
  }
};

__device__ __forceinline__ uint32_t swizzled_chunk(int row, int chunk) {
  return static_cast<uint32_t>(row * 128 + ((chunk ^ (row & 7)) << 4));
}

__device__ __forceinline__ void store_shared_16(uint32_t address, uint4 value) {
  asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(value.x),
               "r"(value.y), "r"(value.z), "r"(value.w)
               : "memory");
}

// Where the row of an entry starts; of row 0 for an empty entry, which reads nothing.
template <class Source>
__device__ __forceinline__ uint8_t const* row_address(KernelArgs const& args, int32_t entry,
                                                      bool exists) {
  uint32_t const index = exists ? static_cast<uint32_t>(entry) : 0;
  if constexpr (Source::kPaged) {
    uint32_t const page = index / args.page_size;
    return args.kv + page * args.kv_stride_bytes +
           (index - page * args.page_size) * int64_t{Source::kHeadDim * 2};
  } else {
    return args.kv + index * args.kv_stride_bytes;
  }
}

// Eight lanes copy one row with cp.async, 16 bytes each, zero-filled when empty.
template <class Source>
__device__ void produce(SharedStorage<Source>& shared, KernelArgs const& args,
                        IndexList const& list, int thread) {
  constexpr int kPanels = Source::kHeadDim / 64;
  constexpr int kRowsPerThread = kBlockTokens * 8 / kProducerThreads;
  int const chunk = thread & 7;
  int const first_row = thread >> 3;
  constexpr int kRowStep = kProducerThreads / 8;

  int32_t entries[kRowsPerThread];
  uint32_t members[kRowsPerThread];
#pragma unroll
  for (int i = 0; i < kRowsPerThread; ++i) {
    entries[i] = list.entry(0, first_row + i * kRowStep);
    members[i] = list.members_of(0, first_row + i * kRowStep);
  }

  for (int block = 0; block < list.num_blocks; ++block) {
    int const stage = block % kStages;
    int32_t next[kRowsPerThread];
    uint32_t next_members[kRowsPerThread];
#pragma unroll
    for (int i = 0; i < kRowsPerThread; ++i) {
      next[i] = list.entry(block + 1, first_row + i * kRowStep);
      next_members[i] = list.members_of(block + 1, first_row + i * kRowStep);
    }
    ptx::mbarrier_wait(&shared.kv_empty[stage], ((block / kStages) & 1) ^ 1);
    uint32_t const panels = ptx::shared_address(shared.kv[stage]);
#pragma unroll
    for (int i = 0; i < kRowsPerThread; ++i) {
      int const row = first_row + i * kRowStep;
      bool const valid = list.is_key(entries[i]);
      uint8_t const* source = row_address<Source>(args, entries[i], valid) + chunk * 16;
      uint32_t const target = panels + swizzled_chunk(row, chunk);
#pragma unroll
      for (int panel = 0; panel < kPanels; ++panel) {
        ptx::cp_async_16(target + panel * kPanelBytes, source + panel * 128, valid);
      }
      bool const selects = valid && (members[i] >> chunk & 1);
      shared.bias[stage][chunk][row] = selects ? 0.f : -INFINITY;
    }
    // The copies arrive when they have landed, so that those of the next stage start at once.
    ptx::cp_async_mbarrier_arrive_noinc(&shared.kv_full[stage]);
    ptx::mbarrier_arrive(&shared.kv_full[stage]);
#pragma unroll
    for (int i = 0; i < kRowsPerThread; ++i) {
      entries[i] = next[i];
      members[i] = next_members[i];
    }
  }
}

}  // namespace dsa_ops::sparse_mla
