// What every entry point needs on the host: status construction and the device's properties.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdarg>
#include <cstddef>
#include <cstdio>

#include "dsa_ops/build_info.h"
#include "dsa_ops/status.h"

namespace dsa_ops {

__attribute__((format(printf, 2, 3))) inline Status make_status(StatusCode code, char const* format,
                                                                ...) {
  Status status;
  status.code = code;
  va_list args;
  va_start(args, format);
  vsnprintf(status.message, sizeof(status.message), format, args);
  va_end(args);
  return status;
}

// Turns a CUDA result into a status that names the op. The runtime forgets the error: left behind,
// it would pass for that of a later launch, which may be another library's.
inline Status cuda_status(cudaError_t error, char const* op) {
  if (error == cudaSuccess) return Status{};
  cudaGetLastError();
  return make_status(StatusCode::kCudaError, "%s: CUDA error %d (%s)", op, static_cast<int>(error),
                     cudaGetErrorString(error));
}

// Blocks of a cluster that every context takes. An H100 also has clusters of 16, but not in a green
// context, whatever its size. A launch that fails for it has this code, and the caller tries again
// with smaller clusters.
inline constexpr int kPortableCluster = 8;
inline constexpr StatusCode kClusterTooLarge = StatusCode{-1};
inline Status cluster_status(cudaError_t error, int cluster_size, char const* op) {
  Status status = cuda_status(error, op);
  bool const too_large = error == cudaErrorInvalidClusterSize && cluster_size > kPortableCluster;
  if (too_large) status.code = kClusterTooLarge;
  return status;
}

// Properties of the current device that plans depend on; queried once per device.
struct DeviceProperties {
  int num_sms = 0;
  int compute_capability = 0;  // 10 * major + minor
};

// Fails with kUnsupportedDevice unless the current device is a compute capability 9.0 GPU.
Status current_device(DeviceProperties* properties, char const* op) noexcept;

// Whether a caller's scratch suffices.
Status check_workspace(void const* workspace, size_t bytes, size_t needed, char const* op) noexcept;

// Raises a kernel's dynamic shared-memory limit once per device; safe to call on every launch.
template <auto kKernel>
Status allow_shared_memory(int bytes, char const* op) {
  static bool done[64] = {};
  int device = 0;
  if (cudaError_t error = cudaGetDevice(&device)) return cuda_status(error, op);
  if (device < 64 && done[device]) return Status{};
  cudaError_t error =
      cudaFuncSetAttribute(kKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (error == cudaSuccess && device < 64) done[device] = true;
  return cuda_status(error, op);
}

// Launches a kernel. The status is this launch's alone, whatever error others left behind.
// overlaps: it starts under the kernel before it on the stream, up to its own wait (ptx/grid.cuh).
template <class Args>
Status launch_grid(void (*kernel)(Args), Args const& args, dim3 grid, int threads, int shared_bytes,
                   char const* op, cudaStream_t stream, bool overlaps = false) {
  cudaLaunchAttribute overlap = {};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  config.stream = stream;
  config.attrs = &overlap;
  config.numAttrs = overlaps ? 1 : 0;
  return cuda_status(cudaLaunchKernelEx(&config, kernel, args), op);
}

// A kernel's row of the table, and the function that preload() loads. Every op folder lists its
// own, beside the code that launches them.
struct KernelEntry {
  KernelInfo info;
  void const* function;
};
struct KernelList {
  KernelEntry const* entries;
  int count;
};
KernelList caches_kernels();
KernelList indexer_kernels();
KernelList topk_kernels();
KernelList fused_topk_kernels();
KernelList listed_topk_kernels();
KernelList owned_topk_kernels();
KernelList sparse_mla_kernels();

}  // namespace dsa_ops
