// Brings the query tile into shared memory: 64 heads by kHeadDim, 128B-swizzled panels, rows past
// the last head zero.
#pragma once
#include "kernels/sparse_mla/producer.cuh"
#include "kernels/sparse_mla/tile.cuh"

namespace dsa_ops::sparse_mla {

// Four threads bring one row, all loads in flight before the first is used: at small batches their
// latency is a good part of the kernel.
template <class Source>
__device__ void load_queries(SharedStorage<Source>& shared, KernelArgs const& args,
                             Tile const& tile, int thread) {
  constexpr int kPerThread = Source::kHeadDim / 8 / 4;  // chunks of 16 bytes
  int const row = thread >> 2;
  int const quarter = thread & 3;
  TileRow const at(tile, row);
  auto const* source =
      reinterpret_cast<uint4 const*>(args.q + (tile.row + at.member) * args.q_row_stride +
                                     at.head * args.q_head_stride) +
      quarter;

  uint4 chunks[kPerThread];
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    chunks[i] = at.exists ? __ldg(source + 4 * i) : make_uint4(0, 0, 0, 0);
  }
  uint32_t const panels = ptx::shared_address(shared.query);
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    store_shared_16(panels + (i >> 1) * kPanelBytes + swizzled_chunk(row, (i & 1) * 4 + quarter),
                    chunks[i]);
  }
}

}  // namespace dsa_ops::sparse_mla
