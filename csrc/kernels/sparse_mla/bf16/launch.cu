#include <algorithm>

#include "kernels/sparse_mla/bf16/kernel.cuh"
#include "kernels/sparse_mla/bf16/launch.h"

namespace dsa_ops::sparse_mla::bf16 {

namespace {

// The dynamic shared-memory window starts 1024-byte aligned: the kernel has no static shared
// memory.
template <class Source>
Status launch_kernel(KernelArgs const& args, int num_sms, char const* op, cudaStream_t stream) {
  constexpr int kBytes = sizeof(SharedStorage);
  int64_t const rows = (args.num_rows + args.pack_rows - 1) / args.pack_rows * args.pack_rows;
  int64_t const tiles = rows * args.head_tiles * args.num_splits;
  if (tiles > INT32_MAX) {
    return make_status(
        StatusCode::kInvalidArgument, "%s: num_rows must be at most %d for these heads, got %lld",
        op, INT32_MAX / (args.head_tiles * args.num_splits), static_cast<long long>(args.num_rows));
  }
  if (Status status = allow_shared_memory<sm90_bf16_sparse_mla_kernel<Source>>(kBytes, op);
      !status.ok()) {
    return status;
  }
  auto const blocks = static_cast<unsigned>(std::min<int64_t>(tiles, num_sms));
  return launch_grid(sm90_bf16_sparse_mla_kernel<Source>, args, dim3(blocks), kThreads, kBytes, op,
                     stream);
}

template <class Source>
KernelEntry entry(char const* op, char const* tile) {
  return {
      {"sm90_bf16_sparse_mla_kernel", op, tile, kThreads, sizeof(SharedStorage), kLaunchRegisters},
      reinterpret_cast<void const*>(&sm90_bf16_sparse_mla_kernel<Source>)};
}

}  // namespace

Status launch_rows(KernelArgs const& args, int32_t head_dim, int num_sms, char const* op,
                   cudaStream_t stream) {
  if (args.pack_rows > 1) {
    return head_dim == 576 ? launch_kernel<Bf16Rows<576, true>>(args, num_sms, op, stream)
                           : launch_kernel<Bf16Rows<512, true>>(args, num_sms, op, stream);
  }
  return head_dim == 576 ? launch_kernel<Bf16Rows<576, false>>(args, num_sms, op, stream)
                         : launch_kernel<Bf16Rows<512, false>>(args, num_sms, op, stream);
}

Status launch_cache(KernelArgs const& args, int num_sms, char const* op, cudaStream_t stream) {
  return launch_kernel<Bf16Cache>(args, num_sms, op, stream);
}

std::array<KernelEntry, 5> kernels() {
  return {
      entry<Bf16Rows<576, false>>("sparse_mla_prefill", "64 heads of one row, 576-dim bf16 rows"),
      entry<Bf16Rows<576, true>>("sparse_mla_prefill", "packs of rows, 576-dim bf16 rows"),
      entry<Bf16Rows<512, false>>("sparse_mla_prefill", "64 heads of one row, 512-dim bf16 rows"),
      entry<Bf16Rows<512, true>>("sparse_mla_prefill", "packs of rows, 512-dim bf16 rows"),
      entry<Bf16Cache>("sparse_mla_decode", "64 heads of one row, bf16 paged cache")};
}

}  // namespace dsa_ops::sparse_mla::bf16
