// Launches of this folder's kernels.
#pragma once
#include <cuda_runtime.h>

#include "kernels/indexer/launchers.h"
#include "kernels/indexer/traits.h"
#include "kernels/launch.h"

namespace dsa_ops::indexer {

inline constexpr int kMaxSharedBytes = 227 * 1024;  // of a block

// Shared memory for as many blocks as fit, up to all that a multiprocessor has for one; set once
// per device.
template <auto kKernel>
Status allow_all_shared_memory(char const* op) {
  static bool done[64] = {};
  int device = 0;
  if (cudaError_t error = cudaGetDevice(&device)) return cuda_status(error, op);
  if (device < 64 && done[device]) return Status{};
  cudaError_t const error = cudaFuncSetAttribute(
      kKernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared);
  if (error != cudaSuccess) return cuda_status(error, op);
  Status const status = allow_shared_memory<kKernel>(kMaxSharedBytes, op);
  if (status.ok() && device < 64) done[device] = true;
  return status;
}

template <auto kKernel, class Storage, int kBlockThreads = kThreads, class Args>
Status launch_kernel(Args const& args, LaunchShape const& shape, cudaStream_t stream,
                     char const* op) {
  static_assert(sizeof(Storage) <= kMaxSharedBytes, "A block's shared memory must fit an SM.");
  Status const status = allow_all_shared_memory<kKernel>(op);
  if (!status.ok()) return status;
  // All the memory of a multiprocessor keeps other blocks away.
  int const shared_bytes = shape.alone ? kMaxSharedBytes : static_cast<int>(sizeof(Storage));
  return launch_grid(kKernel, args, dim3(static_cast<unsigned>(shape.grid)), kBlockThreads,
                     shared_bytes, op, stream, shape.pdl);
}

template <auto kKernel, class Storage>
KernelEntry kernel_entry(char const* name, char const* op, char const* tile,
                         int32_t threads = kThreads, int32_t registers = kLaunchRegisters) {
  return KernelEntry{
      KernelInfo{name, op, tile, threads, static_cast<int32_t>(sizeof(Storage)), registers},
      reinterpret_cast<void const*>(kKernel)};
}

}  // namespace dsa_ops::indexer
