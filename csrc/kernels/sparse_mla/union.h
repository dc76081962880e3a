// Packs: neighbouring rows that attend together, over the union of their index lists.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/launch.h"

namespace dsa_ops::sparse_mla {

inline constexpr int kMaxPackRows = 8;  // an entry of a union has a byte for its members

// The union of a pack's index lists: `length` entries, ascending by key. Bits 24 ... 31 of an entry
// are its members (bit j: row j of the pack selects the key), bits 0 ... 23 are key - first_key.
struct UnionHeader {
  int32_t length;  // 0: the rows of the pack attend one by one
  int32_t first_key;
};

struct UnionArgs {
  int32_t const* indices;
  int64_t indices_row_stride;
  int32_t const* topk_lens;  // nullable
  int64_t num_rows;
  int64_t num_keys;
  int32_t top_k;
  int32_t pack_rows;
  int32_t capacity;  // entries of a union
  float max_share;   // of the selected entries that a union may have for its rows to be packed
  UnionHeader* headers;  // [packs]
  uint32_t* entries;     // [packs, capacity]
};

// Builds the unions of all packs of `pack_rows` consecutive rows. A pack attends row by row when its
// union has more entries than `capacity` or than `max_share` allows, when a row selects a key
// twice (which counts twice, and an entry can say it once only), or when its keys are so far apart
// that little overlap can be expected.
Status build_unions(UnionArgs const& args, char const* op, cudaStream_t stream);

// The builder's row of the library's kernel table.
KernelEntry union_kernel_entry();

}  // namespace dsa_ops::sparse_mla
