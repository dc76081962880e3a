// Packs: neighbouring rows that attend together, over the union of their index lists.
#pragma once
#include <cuda_runtime_api.h>

#include <array>
#include <cstdint>

#include "kernels/launch.h"
#include "kernels/sparse_mla/plan.h"

namespace dsa_ops::sparse_mla {

// A tile of a launch with packs.
struct PackTile {
  int32_t row;     // below 0: the rows of pack ~row together
  int32_t length;  // of the row's index list, or the pack's union; below 0: nothing to do
};

// The unions of the packs' index lists, each in `capacity` places, a multiple of 64: ascending
// keys, and beside each key its members (bit j: row j of the pack selects it). The last block of 64
// is filled up with key -1, members 0.
struct Unions {
  int32_t* keys;     // [packs, capacity]
  uint8_t* members;  // [packs, capacity], 64-byte aligned
  int32_t capacity;
  // First one for every pack, for its rows together or for its first row alone; then one for every
  // other row, with nothing to do if its pack attends together. That comes last, where
  // multiprocessors run out of work anyway.
  PackTile* tiles;  // [packs * pack_rows]
  // For a second launch: rows that the first one got wrong. None when the builder is done.
  PackTile* repairs;  // [packs * pack_rows]
  int32_t* leaked;    // not zero if there are any
};

struct UnionArgs {
  int32_t const* indices;
  int64_t indices_row_stride;
  int32_t const* topk_lens;  // nullable
  int64_t num_rows;
  int64_t num_keys;
  int32_t top_k;
  int32_t pack_rows;
  float max_share;  // of the rows' entries that a union may have for its rows to be packed
  Unions unions;
};

// Builds the unions of all packs of `pack_rows` consecutive rows. The rows of a pack attend one by
// one when the union is longer than `capacity` or than `max_share` allows, when a row selects a key
// twice (which counts twice, and a union holds it once), or when its keys are so far apart that
// little overlap can be expected.
Status build_unions(UnionArgs const& args, char const* op, cudaStream_t stream);

// Its rows of the library's kernel table.
std::array<KernelEntry, 3> union_kernels();

}  // namespace dsa_ops::sparse_mla
