#include <cuda_runtime.h>

#include "kernels/topk/row_lengths.h"

namespace dsa_ops::topk_detail {
namespace {

constexpr int kThreads = 256;
constexpr int kMaxRegisters = 255;

__global__ void __launch_bounds__(kThreads)
    paged_row_lengths_kernel(indexer::RowLengths const lengths, int32_t num_rows, int32_t* out) {
  int64_t const row = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (row >= num_rows) return;
  int32_t const request = static_cast<int32_t>(row) / lengths.next_n;
  out[row] = lengths.of(request, static_cast<int32_t>(row) % lengths.next_n);
}

}  // namespace

Status write_row_lengths(indexer::RowLengths const& lengths, int32_t num_rows, int32_t* out,
                         cudaStream_t stream, char const* op) noexcept {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3((static_cast<unsigned>(num_rows) + kThreads - 1) / kThreads);
  config.blockDim = dim3(kThreads);
  config.stream = stream;
  return cuda_status(cudaLaunchKernelEx(&config, paged_row_lengths_kernel, lengths, num_rows, out),
                     op);
}

KernelEntry row_lengths_kernel() {
  return KernelEntry{KernelInfo{"paged_row_lengths_kernel", "paged_indexer_topk", "256 rows",
                                kThreads, 0, kMaxRegisters},
                     reinterpret_cast<void const*>(&paged_row_lengths_kernel)};
}

}  // namespace dsa_ops::topk_detail
