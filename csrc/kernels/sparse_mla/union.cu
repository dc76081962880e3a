#include <algorithm>

#include "kernels/sparse_mla/union.cuh"

namespace dsa_ops::sparse_mla {
namespace {

template <int kBits>
Status launch_union(UnionArgs const& args, char const* op, cudaStream_t stream) {
  constexpr int kMaxBytes = sizeof(UnionStorage) + kMapBytes;
  if (Status status = allow_shared_memory<union_kernel<kBits>>(kMaxBytes, op); !status.ok()) {
    return status;
  }
  int64_t const keys = std::min<int64_t>(args.num_keys, KeyMap<kBits>::kWindow);
  int64_t const parts = (keys + kPartKeys - 1) / kPartKeys;
  int const bytes = static_cast<int>(sizeof(UnionStorage) + parts * kPartKeys / 8 * kBits);
  int64_t const packs = (args.num_rows + args.pack_rows - 1) / args.pack_rows;
  return launch_grid(union_kernel<kBits>, args, dim3(static_cast<unsigned>(packs)), kUnionThreads,
                     bytes, op, stream);
}

template <int kBits>
KernelEntry kernel_entry(char const* variant) {
  return {{"union_kernel", "sparse_mla_prefill", variant, kUnionThreads,
           sizeof(UnionStorage) + kMapBytes, 40},
          reinterpret_cast<void const*>(&union_kernel<kBits>)};
}

}  // namespace

Status build_unions(UnionArgs const& args, char const* op, cudaStream_t stream) {
  if (args.pack_rows <= 2) return launch_union<2>(args, op, stream);
  if (args.pack_rows <= 4) return launch_union<4>(args, op, stream);
  return launch_union<8>(args, op, stream);
}

std::array<KernelEntry, 3> union_kernels() {
  return {kernel_entry<2>("packs of 2 rows"), kernel_entry<4>("packs of 3 or 4 rows"),
          kernel_entry<8>("packs of 5 to 8 rows")};
}

}  // namespace dsa_ops::sparse_mla
