// Where a row lies, and what becomes of its positions.
#pragma once
#include <cstdint>

#include "kernels/topk/traits.h"

namespace dsa_ops::topk_sm90 {

// The end that a call gives for a row, asked for ahead of what needs it: no branch, behind which
// other loads would be issued first. None where context lengths are given.
__device__ __forceinline__ int32_t given_end(KernelArgs const& args, int32_t row) {
  int32_t end = 0;
  asm volatile(
      "{\n"
      ".reg .pred given;\n"
      "setp.ne.u32 given, %1, 0;\n"
      "@given ld.global.b32 %0, [%2];\n"
      "}"
      : "+r"(end)
      : "r"(static_cast<uint32_t>(args.lengths.context_lens == nullptr)), "l"(args.row_ends + row)
      : "memory");
  return end;
}

// The number of logits of a row and where they start.
struct RowRange {
  int32_t start;
  int32_t length;

  RowRange() = default;
  __device__ RowRange(KernelArgs const& args, int32_t row)
      : RowRange(args, row, given_end(args, row)) {}
  __device__ RowRange(KernelArgs const& args, int32_t row, int32_t end) {
    int32_t const columns = args.num_columns;
    if (args.lengths.context_lens != nullptr) {
      int32_t const request = row / args.lengths.next_n;
      start = 0;
      length = min(args.lengths.of(request, row - request * args.lengths.next_n), columns);
      return;
    }
    start = args.row_starts == nullptr ? 0 : min(max(args.row_starts[row], 0), columns);
    length = max(min(max(end, 0), columns) - start, 0);
  }
};

// Has arguments in the constant cache before they are needed: a line of them comes when it is first
// asked for. The row's width, without which no load begins; what a SlotMap is made of.
__device__ __forceinline__ void touch_width(KernelArgs const& args) {
  asm volatile("" ::"r"(args.num_columns));
}
__device__ __forceinline__ void touch_slots(KernelArgs const& args) {
  asm volatile("" ::"r"(static_cast<uint32_t>(args.to_slots)), "l"(args.row_offsets));
}

// Positions to what is returned: moved by the row's offset, and slots of the row's request if asked
// for.
struct SlotMap {
  int32_t const* pages = nullptr;
  int64_t num_pages = 0;
  int32_t offset;
  bool identity;

  // Positions moved, no slots.
  __device__ explicit SlotMap(int32_t row_offset) : offset(row_offset), identity(true) {}
  __device__ SlotMap(KernelArgs const& args, int32_t row)
      : offset(args.row_offsets == nullptr ? 0 : args.row_offsets[row]), identity(!args.to_slots) {
    if (identity) return;
    int32_t const request =
        args.row_to_request ? args.row_to_request[row] : row / args.rows_per_request;
    if (request < 0 || request >= args.num_requests) return;
    pages = args.block_table + int64_t{request} * args.block_table_stride;
    num_pages = args.pages_per_request;
  }

  // A request that does not exist has no pages, hence no slots.
  __device__ int32_t operator()(uint32_t position) const {
    if (identity) return static_cast<int32_t>(position) + offset;
    uint32_t const index = position / kPageTokens;
    int32_t const page = index < num_pages ? pages[index] : -1;
    if (page < 0) return -1;
    return page * kPageTokens + static_cast<int32_t>(position % kPageTokens) + offset;
  }
};

// A row not longer than top_k wins as a whole. Written by all blocks of its cluster.
template <int kThreads>
__device__ __forceinline__ void write_whole_row(KernelArgs const& args, RowRange const& range,
                                                SlotMap const& slot, int rank, int cluster_size,
                                                int32_t* indices) {
  for (int i = rank * kThreads + threadIdx.x; i < args.top_k; i += cluster_size * kThreads) {
    indices[i] = i < range.length ? slot(i) : -1;
  }
}

}  // namespace dsa_ops::topk_sm90
