// Host side of a launch, shared by prefill and decode.
#pragma once
#include "kernels/launch.h"
#include "kernels/sparse_mla/sm90_sparse_mla.cuh"

namespace dsa_ops::sparse_mla {

// The dynamic shared-memory window starts 1024-byte aligned: the kernel has no static shared
// memory.
template <class Source>
Status launch(KernelArgs const& args, int64_t num_rows, char const* op, cudaStream_t stream) {
  constexpr int kBytes = sizeof(SharedStorage<Source>);
  static_assert(kBytes <= 232448, "the tiles must fit the 227 KB of shared memory of a block");
  int64_t const rows = (num_rows + args.pack_rows - 1) / args.pack_rows * args.pack_rows;
  int64_t const blocks = rows * args.head_tiles * args.num_splits;
  if (blocks > INT32_MAX) {
    return make_status(StatusCode::kInvalidArgument,
                       "%s: num_rows must be at most %lld for these heads, got %lld", op,
                       static_cast<long long>(INT32_MAX / (args.head_tiles * args.num_splits)),
                       static_cast<long long>(num_rows));
  }
  if (Status status = allow_shared_memory<sparse_mla_kernel<Source>>(kBytes, op); !status.ok()) {
    return status;
  }
  sparse_mla_kernel<Source><<<static_cast<unsigned>(blocks), kThreads, kBytes, stream>>>(args);
  return cuda_status(cudaGetLastError(), op);
}

// Checks shared by both entry points.
Status check_common(char const* op, int64_t num_rows, int32_t num_heads, int64_t top_k,
                    int64_t q_row_stride, int64_t q_head_stride, int64_t out_row_stride,
                    int64_t out_head_stride);

}  // namespace dsa_ops::sparse_mla
