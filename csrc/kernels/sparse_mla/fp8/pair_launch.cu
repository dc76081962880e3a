#include <algorithm>

#include "kernels/sparse_mla/fp8/pair_kernel.cuh"
#include "kernels/sparse_mla/fp8/pair_launch.h"

namespace dsa_ops::sparse_mla::fp8 {
namespace {

constexpr int kBytes = sizeof(SharedStorage<PairTile>);
static_assert(kBytes <= 232448, "the tiles must fit the 227 KB of shared memory of a block");

template <bool kReadsOnce>
constexpr auto kPairKernel = sm90_fp8_sparse_mla_pair_kernel<kReadsOnce>;

// The dynamic shared-memory window starts 1024-byte aligned: the kernel has no static shared
// memory.
template <bool kReadsOnce>
Status launch(KernelArgs const& args, unsigned pairs, char const* op, cudaStream_t stream) {
  if (Status status = allow_shared_memory<kPairKernel<kReadsOnce>>(kBytes, op); !status.ok()) {
    return status;
  }
  cudaLaunchAttribute cluster = {};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {2, 1, 1};
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(2 * pairs);
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = kBytes;
  config.stream = stream;
  config.attrs = &cluster;
  config.numAttrs = 1;
  return cuda_status(cudaLaunchKernelEx(&config, kPairKernel<kReadsOnce>, args), op);
}

template <bool kReadsOnce>
KernelEntry entry(char const* what) {
  return {{"sm90_fp8_sparse_mla_pair_kernel", "sparse_mla_decode", what, kThreads, kBytes,
           kLaunchRegisters},
          reinterpret_cast<void const*>(kPairKernel<kReadsOnce>)};
}

}  // namespace

Status launch_pairs(KernelArgs const& args, int32_t num_sms, char const* op, cudaStream_t stream) {
  int64_t const at_a_time = std::max(num_sms / 2, 1);
  return args.num_rows <= at_a_time
             ? launch<true>(args, static_cast<unsigned>(args.num_rows), op, stream)
             : launch<false>(args, static_cast<unsigned>(at_a_time), op, stream);
}

std::array<KernelEntry, 2> pair_kernels() {
  return {entry<false>("65 to 128 heads of one row, FP8 paged cache, cluster of two"),
          entry<true>("65 to 128 heads of one row, FP8 paged cache, cluster of two, one wave")};
}

}  // namespace dsa_ops::sparse_mla::fp8
