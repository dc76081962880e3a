// Versions, the table of kernels over all ops, and their preload.
#include "dsa_ops/build_info.h"

#include <cuda_runtime_api.h>

#include "kernels/launch.h"

namespace dsa_ops {
namespace {

constexpr KernelList (*kLists[])() = {caches_kernels,     indexer_kernels,     topk_kernels,
                                      fused_topk_kernels, listed_topk_kernels, owned_topk_kernels,
                                      sparse_mla_kernels};

}  // namespace

inline namespace v0 {

char const* version() noexcept { return DSA_OPS_VERSION; }

char const* cuda_version() noexcept { return DSA_OPS_CUDA_VERSION; }

int32_t kernel_count() noexcept {
  int32_t count = 0;
  for (auto list : kLists) count += list().count;
  return count;
}

KernelInfo kernel_info(int32_t index) noexcept {
  for (auto list : kLists) {
    KernelList const kernels = list();
    if (0 <= index && index < kernels.count) return kernels.entries[index].info;
    index -= kernels.count;
  }
  return KernelInfo{};
}

Status preload() noexcept {
  DeviceProperties properties;
  Status status = current_device(&properties, "preload");
  for (auto list : kLists) {
    KernelList const kernels = list();
    for (int i = 0; status.ok() && i < kernels.count; ++i) {
      // Asking for a function's attributes loads its module.
      cudaFuncAttributes attributes;
      status =
          cuda_status(cudaFuncGetAttributes(&attributes, kernels.entries[i].function), "preload");
    }
  }
  return status;
}

}  // namespace v0
}  // namespace dsa_ops
