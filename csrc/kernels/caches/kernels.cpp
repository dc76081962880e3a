// The kernels of this folder, for the table of the library and for preloading.
#include "kernels/caches/entry.h"

namespace dsa_ops {

KernelList caches_kernels() {
  static KernelEntry const entries[] = {
      caches::kWriteIndexCacheKernel, caches::kGatherIndexCacheKernel, caches::kWriteMlaCacheKernel,
      caches::kGatherMlaCacheKernel,  caches::kPrepareIndexQKernel,    caches::kPrepareIndexKKernel,
      caches::kMergeStatesKernel,
  };
  return {entries, static_cast<int>(sizeof(entries) / sizeof(entries[0]))};
}

}  // namespace dsa_ops
