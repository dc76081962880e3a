// What this library was built from, and the table of its kernels. Needs no GPU.
#pragma once
#include <cstdint>

#include "dsa_ops/status.h"

namespace dsa_ops {
inline namespace v0 {

struct KernelInfo {
  char const* name;  // as a profiler shows it, without namespace and template arguments
  char const* op;    // the op it serves
  char const* tile;  // what one block computes, in words
  int32_t threads;
  int32_t shared_memory_bytes;
  int32_t max_registers;  // per thread, the cap of the launch bounds
};

DSA_OPS_API char const* version() noexcept;
DSA_OPS_API char const* cuda_version() noexcept;  // of the compiler, "13.0"
DSA_OPS_API int32_t kernel_count() noexcept;
DSA_OPS_API KernelInfo kernel_info(int32_t index) noexcept;  // 0 <= index < kernel_count()
// Loads every kernel on the current device, so that graph capture meets no lazy loading.
DSA_OPS_API Status preload() noexcept;

}  // namespace v0
}  // namespace dsa_ops
