#include "kernels/sparse_mla/union.cuh"

#include <algorithm>

namespace dsa_ops::sparse_mla {

Status build_unions(UnionArgs const& args, char const* op, cudaStream_t stream) {
  constexpr int kMapAlignment = kUnionWarps * kUnionStep;
  constexpr int kMaxBytes = sizeof(UnionStorage) + kUnionWindow;
  if (Status status = allow_shared_memory<union_kernel>(kMaxBytes, op); !status.ok()) return status;
  int64_t const keys = std::min<int64_t>(args.num_keys, kUnionWindow);
  int64_t const map_bytes = (keys + kMapAlignment - 1) / kMapAlignment * kMapAlignment;
  int64_t const packs = (args.num_rows + args.pack_rows - 1) / args.pack_rows;
  union_kernel<<<static_cast<unsigned>(packs), kUnionThreads, sizeof(UnionStorage) + map_bytes,
                 stream>>>(args);
  return cuda_status(cudaGetLastError(), op);
}

KernelEntry union_kernel_entry() {
  return {{"union_kernel", "sparse_mla_prefill", "index lists of a pack of rows", kUnionThreads,
           sizeof(UnionStorage) + kUnionWindow, 64},
          reinterpret_cast<void const*>(&union_kernel)};
}

}  // namespace dsa_ops::sparse_mla
