#include "kernels/sparse_mla/fp8/kernel.cuh"
#include "kernels/sparse_mla/fp8/launch.h"
#include "kernels/sparse_mla/fp8/pair_launch.h"
#include "kernels/sparse_mla/fp8/short.cuh"
#include "kernels/sparse_mla/plan.h"

namespace dsa_ops::sparse_mla::fp8 {
namespace {

template <class HeadTile, Split kSplit, bool kReadsOnce>
constexpr auto kKernel = sm90_fp8_sparse_mla_kernel<HeadTile, kSplit, kReadsOnce>;
template <class HeadTile>
constexpr auto kShortKernel = sm90_fp8_sparse_mla_short_kernel<HeadTile>;

template <int kMaxSplits>
Status launch_join(KernelArgs const& args, int64_t num_rows, int tile_heads, char const* op,
                   cudaStream_t stream) {
  cudaLaunchAttribute overlap = {};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim =
      dim3((args.num_heads + kJoinHeads - 1) / kJoinHeads, static_cast<unsigned>(num_rows));
  config.blockDim = dim3(kJoinThreads);
  config.stream = stream;
  config.attrs = &overlap;
  config.numAttrs = 1;
  return cuda_status(cudaLaunchKernelEx(&config, fp8_join_kernel<kMaxSplits>, args, tile_heads),
                     op);
}

// The dynamic shared-memory window starts 1024-byte aligned: the kernel has no static shared
// memory.
template <auto kFunction, int kBytes, Split kSplit>
Status launch_function(KernelArgs const& args, dim3 grid, char const* op, cudaStream_t stream) {
  static_assert(kBytes <= 232448, "the tiles must fit the 227 KB of shared memory of a block");
  if (Status status = allow_shared_memory<kFunction>(kBytes, op); !status.ok()) return status;
  if (is_cluster(kSplit) && args.num_splits > kPortableCluster) {
    cudaError_t const error =
        cudaFuncSetAttribute(kFunction, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
    if (error != cudaSuccess) return cuda_status(error, op);
  }
  cudaLaunchAttribute cluster = {};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {1, 1, static_cast<unsigned>(args.num_splits)};
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = kBytes;
  config.stream = stream;
  config.attrs = &cluster;
  config.numAttrs = is_cluster(kSplit) ? 1 : 0;
  int const cluster_size = is_cluster(kSplit) ? args.num_splits : 1;
  return cluster_status(cudaLaunchKernelEx(&config, kFunction, args), cluster_size, op);
}

template <class HeadTile, Split kSplit, bool kReadsOnce>
Status launch_kernel(KernelArgs const& args, dim3 grid, char const* op, cudaStream_t stream) {
  return launch_function<kKernel<HeadTile, kSplit, kReadsOnce>, sizeof(SharedStorage<HeadTile>),
                         kSplit>(args, grid, op, stream);
}

// Of a launch with a thread block for every tile and split: no more than run at a time.
dim3 whole_grid(KernelArgs const& args, int64_t num_rows) {
  return dim3(args.head_tiles, static_cast<unsigned>(num_rows), args.num_splits);
}

template <class HeadTile>
Status launch_short(KernelArgs const& all, int64_t num_rows, char const* op, cudaStream_t stream) {
  KernelArgs args = all;
  args.limits_copies = false;  // warpgroup 3 has other work than to wait for tokens
  return launch_function<kShortKernel<HeadTile>, sizeof(ShortStorage<HeadTile>), Split::kCluster>(
      args, whole_grid(args, num_rows), op, stream);
}

template <class HeadTile>
Status launch_cluster(KernelArgs const& args, int64_t num_rows, char const* op,
                      cudaStream_t stream) {
  dim3 const grid = whole_grid(args, num_rows);
  if constexpr (HeadTile::kHeads == kThreeSplitHeads) {
    if (args.num_splits == 3) {
      return launch_kernel<HeadTile, Split::kThree, true>(args, grid, op, stream);
    }
  }
  if constexpr (HeadTile::kHeads < 64) {
    if (args.blocks_per_split <= kShortBlocks) {
      return launch_short<HeadTile>(args, num_rows, op, stream);
    }
    if (args.num_splits > 2) {
      return launch_kernel<HeadTile, Split::kCluster, true>(args, grid, op, stream);
    }
  }
  return launch_kernel<HeadTile, Split::kTwo, true>(args, grid, op, stream);
}

template <int kHeads>
Status launch_tiles(KernelArgs const& args, int64_t num_rows, bool through_scratch, int32_t num_sms,
                    char const* op, cudaStream_t stream) {
  using Tile = HeadTile<kHeads>;
  dim3 const grid = whole_grid(args, num_rows);
  if (args.num_splits == 1) {
    uint32_t const at_a_time = num_sms;
    return args.num_tiles <= at_a_time
               ? launch_kernel<Tile, Split::kNone, true>(args, grid, op, stream)
               : launch_kernel<Tile, Split::kNone, false>(args, at_a_time, op, stream);
  }
  // A launch is split only where it runs at a time.
  if (!through_scratch) {
    Status const status = launch_cluster<Tile>(args, num_rows, op, stream);
    if (status.code != kClusterTooLarge) return status;
    KernelArgs half = args;  // of 16 splits
    half.num_splits /= 2;
    half.blocks_per_split *= 2;
    return launch_cluster<Tile>(half, num_rows, op, stream);
  }
  Status const status = launch_kernel<Tile, Split::kScratch, true>(args, grid, op, stream);
  if (!status.ok()) return status;
  if (args.num_splits <= 4) return launch_join<4>(args, num_rows, kHeads, op, stream);
  if (args.num_splits <= 8) return launch_join<8>(args, num_rows, kHeads, op, stream);
  return launch_join<16>(args, num_rows, kHeads, op, stream);
}

template <int kHeads, Split kSplit, bool kReadsOnce>
KernelEntry entry(char const* what) {
  return {{"sm90_fp8_sparse_mla_kernel", "sparse_mla_decode", what, kThreads,
           sizeof(SharedStorage<HeadTile<kHeads>>), kLaunchRegisters},
          reinterpret_cast<void const*>(kKernel<HeadTile<kHeads>, kSplit, kReadsOnce>)};
}

template <int kHeads>
KernelEntry short_entry(char const* what) {
  return {{"sm90_fp8_sparse_mla_short_kernel", "sparse_mla_decode", what, kThreads,
           sizeof(ShortStorage<HeadTile<kHeads>>), kLaunchRegisters},
          reinterpret_cast<void const*>(kShortKernel<HeadTile<kHeads>>)};
}

template <int kMaxSplits>
KernelEntry join_entry() {
  return {{"fp8_join_kernel", "sparse_mla_decode", "two heads of one row", kJoinThreads, 0, 255},
          reinterpret_cast<void const*>(&fp8_join_kernel<kMaxSplits>)};
}

}  // namespace

Status launch(KernelArgs const& all, int64_t num_rows, int32_t tile_heads, bool through_scratch,
              int32_t num_sms, char const* op, cudaStream_t stream) {
  if (num_rows > INT32_MAX / all.head_tiles) {
    return make_status(StatusCode::kInvalidArgument,
                       "%s: num_rows must be at most %d for these heads, got %lld", op,
                       INT32_MAX / all.head_tiles, static_cast<long long>(num_rows));
  }
  if (tile_heads == 64 && all.head_tiles == 2 && all.num_splits == 1) {
    return launch_pairs(all, num_sms, op, stream);
  }
  KernelArgs args = all;
  args.num_tiles = static_cast<uint32_t>(num_rows * args.head_tiles);
  switch (tile_heads) {
    case 8: return launch_tiles<8>(args, num_rows, through_scratch, num_sms, op, stream);
    case 16: return launch_tiles<16>(args, num_rows, through_scratch, num_sms, op, stream);
    case 32: return launch_tiles<32>(args, num_rows, through_scratch, num_sms, op, stream);
    default: return launch_tiles<64>(args, num_rows, through_scratch, num_sms, op, stream);
  }
}

std::array<KernelEntry, 26> kernels() {
  return {
      entry<8, Split::kNone, false>("8 heads of one row, FP8 paged cache"),
      entry<8, Split::kNone, true>("8 heads of one row, FP8 paged cache, one wave"),
      entry<16, Split::kNone, false>("16 heads of one row, FP8 paged cache"),
      entry<16, Split::kNone, true>("16 heads of one row, FP8 paged cache, one wave"),
      entry<32, Split::kNone, false>("32 heads of one row, FP8 paged cache"),
      entry<32, Split::kNone, true>("32 heads of one row, FP8 paged cache, one wave"),
      entry<64, Split::kNone, false>("64 heads of one row, FP8 paged cache"),
      entry<64, Split::kNone, true>("64 heads of one row, FP8 paged cache, one wave"),
      entry<8, Split::kCluster, true>("8 heads of one row and split, FP8 paged cache, cluster"),
      entry<16, Split::kCluster, true>("16 heads of one row and split, FP8 paged cache, cluster"),
      entry<32, Split::kCluster, true>("32 heads of one row and split, FP8 paged cache, cluster"),
      entry<8, Split::kScratch, true>("8 heads of one row and split, FP8 paged cache, scratch"),
      entry<16, Split::kScratch, true>("16 heads of one row and split, FP8 paged cache, scratch"),
      entry<32, Split::kScratch, true>("32 heads of one row and split, FP8 paged cache, scratch"),
      entry<64, Split::kScratch, true>("64 heads of one row and split, FP8 paged cache, scratch"),
      entry<8, Split::kTwo, true>("8 heads of one row and half, FP8 paged cache, cluster"),
      entry<16, Split::kTwo, true>("16 heads of one row and half, FP8 paged cache, cluster"),
      entry<32, Split::kTwo, true>("32 heads of one row and half, FP8 paged cache, cluster"),
      entry<64, Split::kTwo, true>("64 heads of one row and half, FP8 paged cache, cluster"),
      entry<16, Split::kThree, true>("16 heads of one row and third, FP8 paged cache, cluster"),
      short_entry<8>("8 heads of one row and split of 128 tokens, FP8 paged cache"),
      short_entry<16>("16 heads of one row and split of 128 tokens, FP8 paged cache"),
      short_entry<32>("32 heads of one row and split of 128 tokens, FP8 paged cache"),
      join_entry<4>(),
      join_entry<8>(),
      join_entry<16>()};
}

}  // namespace dsa_ops::sparse_mla::fp8
