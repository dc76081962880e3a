// The current device's properties, asked of the CUDA runtime once per device; checks of scratch.
#include "kernels/launch.h"

#include <atomic>

namespace dsa_ops {
namespace {

constexpr int kMaxDevices = 64;

cudaError_t query_device(int device, DeviceProperties* properties) {
  int major = 0;
  int minor = 0;
  cudaError_t error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
  }
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&properties->num_sms, cudaDevAttrMultiProcessorCount, device);
  }
  properties->compute_capability = 10 * major + minor;
  return error;
}

}  // namespace

Status current_device(DeviceProperties* properties, char const* op) noexcept {
  // Value 0 is "not asked yet"; threads that race store the same value.
  static_assert(std::atomic<DeviceProperties>::is_always_lock_free);
  static std::atomic<DeviceProperties> cache[kMaxDevices];

  int device = 0;
  if (cudaError_t error = cudaGetDevice(&device)) {
    return make_status(StatusCode::kUnsupportedDevice,
                       "%s: device must be a GPU of compute capability 9.0, got none (%s)", op,
                       cudaGetErrorString(error));
  }
  bool const cacheable = device < kMaxDevices;
  if (cacheable) *properties = cache[device].load(std::memory_order_relaxed);
  if (!cacheable || properties->compute_capability == 0) {
    if (cudaError_t error = query_device(device, properties)) return cuda_status(error, op);
    if (cacheable) cache[device].store(*properties, std::memory_order_relaxed);
  }
  if (properties->compute_capability != 90) {
    return make_status(StatusCode::kUnsupportedDevice,
                       "%s: device must be a GPU of compute capability 9.0, got %d.%d", op,
                       properties->compute_capability / 10, properties->compute_capability % 10);
  }
  return Status{};
}

Status check_workspace(void const* workspace, size_t bytes, size_t needed,
                       char const* op) noexcept {
  if (reinterpret_cast<uintptr_t>(workspace) % 256 != 0) {
    return make_status(StatusCode::kInvalidArgument,
                       "%s: workspace must be aligned to 256 bytes, got address %p", op, workspace);
  }
  if (bytes < needed) {
    return make_status(StatusCode::kInvalidArgument,
                       "%s: workspace_bytes must be at least %zu, got %zu", op, needed, bytes);
  }
  return Status{};
}

}  // namespace dsa_ops
