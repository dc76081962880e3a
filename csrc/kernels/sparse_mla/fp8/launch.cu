#include "kernels/sparse_mla/fp8/launch.h"

#include "kernels/sparse_mla/fp8/kernel.cuh"

namespace dsa_ops::sparse_mla::fp8 {
namespace {

// The dynamic shared-memory window starts 1024-byte aligned: the kernel has no static shared
// memory.
template <int kHeads>
Status launch_tiles(KernelArgs const& args, int64_t blocks, char const* op, cudaStream_t stream) {
  constexpr int kBytes = sizeof(SharedStorage<HeadTile<kHeads>>);
  static_assert(kBytes <= 232448, "the tiles must fit the 227 KB of shared memory of a block");
  constexpr auto kKernel = sm90_fp8_sparse_mla_kernel<HeadTile<kHeads>>;
  if (Status status = allow_shared_memory<kKernel>(kBytes, op); !status.ok()) return status;
  kKernel<<<static_cast<unsigned>(blocks), kThreads, kBytes, stream>>>(args);
  return cuda_status(cudaGetLastError(), op);
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
  int64_t const tiles = int64_t{args.head_tiles} * args.num_splits;
  if (num_rows > INT32_MAX / tiles) {
    return make_status(StatusCode::kInvalidArgument,
                       "%s: num_rows must be at most %lld for these heads, got %lld", op,
                       static_cast<long long>(INT32_MAX / tiles), static_cast<long long>(num_rows));
  }
  int64_t const blocks = num_rows * tiles;
  switch (tile_heads) {
    case 8: return launch_tiles<8>(args, blocks, op, stream);
    case 16: return launch_tiles<16>(args, blocks, op, stream);
    case 32: return launch_tiles<32>(args, blocks, op, stream);
    default: return launch_tiles<64>(args, blocks, op, stream);
  }
}

std::array<KernelEntry, 4> kernels() {
  return {entry<8>("8 heads of one row, FP8 paged cache"),
          entry<16>("16 heads of one row, FP8 paged cache"),
          entry<32>("32 heads of one row, FP8 paged cache"),
          entry<64>("64 heads of one row, FP8 paged cache")};
}

}  // namespace dsa_ops::sparse_mla::fp8
