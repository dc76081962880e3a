#include "kernels/sparse_mla/fp8/kernel.cuh"
#include "kernels/sparse_mla/fp8/launch.h"

namespace dsa_ops::sparse_mla::fp8 {
namespace {

constexpr int kPortableCluster = 8;  // blocks; an H100 also has clusters of 16

// The dynamic shared-memory window starts 1024-byte aligned: the kernel has no static shared
// memory.
template <int kHeads>
Status launch_tiles(KernelArgs const& args, int64_t row_tiles, char const* op,
                    cudaStream_t stream) {
  constexpr int kBytes = sizeof(SharedStorage<HeadTile<kHeads>>);
  static_assert(kBytes <= 232448, "the tiles must fit the 227 KB of shared memory of a block");
  constexpr auto kKernel = sm90_fp8_sparse_mla_kernel<HeadTile<kHeads>>;
  if (Status status = allow_shared_memory<kKernel>(kBytes, op); !status.ok()) return status;
  if (args.num_splits > kPortableCluster) {
    cudaError_t const error =
        cudaFuncSetAttribute(kKernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
    if (error != cudaSuccess) return cuda_status(error, op);
  }
  cudaLaunchAttribute cluster = {};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {1, static_cast<unsigned>(args.num_splits), 1};
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(row_tiles), args.num_splits);
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = kBytes;
  config.stream = stream;
  config.attrs = &cluster;
  config.numAttrs = args.num_splits > 1 ? 1 : 0;
  return cuda_status(cudaLaunchKernelEx(&config, kKernel, args), op);
}

template <int kHeads>
KernelEntry entry(char const* what) {
  return {{"sm90_fp8_sparse_mla_kernel", "sparse_mla_decode", what, kThreads,
           sizeof(SharedStorage<HeadTile<kHeads>>), kLaunchRegisters},
          reinterpret_cast<void const*>(&sm90_fp8_sparse_mla_kernel<HeadTile<kHeads>>)};
}

}  // namespace

Status launch(KernelArgs const& args, int64_t num_rows, int32_t tile_heads, char const* op,
              cudaStream_t stream) {
  if (num_rows > INT32_MAX / args.head_tiles) {
    return make_status(StatusCode::kInvalidArgument,
                       "%s: num_rows must be at most %d for these heads, got %lld", op,
                       INT32_MAX / args.head_tiles, static_cast<long long>(num_rows));
  }
  int64_t const row_tiles = num_rows * args.head_tiles;
  switch (tile_heads) {
    case 8: return launch_tiles<8>(args, row_tiles, op, stream);
    case 16: return launch_tiles<16>(args, row_tiles, op, stream);
    case 32: return launch_tiles<32>(args, row_tiles, op, stream);
    default: return launch_tiles<64>(args, row_tiles, op, stream);
  }
}

std::array<KernelEntry, 4> kernels() {
  return {entry<8>("8 heads of one row, FP8 paged cache"),
          entry<16>("16 heads of one row, FP8 paged cache"),
          entry<32>("32 heads of one row, FP8 paged cache"),
          entry<64>("64 heads of one row, FP8 paged cache")};
}

}  // namespace dsa_ops::sparse_mla::fp8
