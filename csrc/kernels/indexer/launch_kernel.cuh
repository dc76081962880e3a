// Launches of this folder's kernels, all of the same block shape.
#pragma once
#include <cuda_runtime.h>

#include "kernels/indexer/launchers.h"
#include "kernels/indexer/traits.h"
#include "kernels/launch.h"

namespace dsa_ops::indexer {

template <auto kKernel, class Storage, class Args>
Status launch_kernel(Args const& args, LaunchShape const& shape, cudaStream_t stream,
                     char const* op) {
  static_assert(sizeof(Storage) <= 227 * 1024, "A block's shared memory must fit an SM.");
  Status const status = allow_shared_memory<kKernel>(sizeof(Storage), op);
  if (!status.ok()) return status;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(shape.grid));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = sizeof(Storage);
  config.stream = stream;
  cudaLaunchAttribute overlap{};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &overlap;
  config.numAttrs = shape.pdl ? 1 : 0;
  return cuda_status(cudaLaunchKernelEx(&config, kKernel, args), op);
}

template <auto kKernel, class Storage>
KernelEntry kernel_entry(char const* name, char const* op, char const* tile) {
  return KernelEntry{
      KernelInfo{name, op, tile, kThreads, static_cast<int32_t>(sizeof(Storage)), kLaunchRegisters},
      reinterpret_cast<void const*>(kKernel)};
}

}  // namespace dsa_ops::indexer
