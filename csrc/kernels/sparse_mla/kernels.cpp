#include "kernels/sparse_mla/kernels.h"

namespace dsa_ops {

KernelList sparse_mla_kernels() {
  static std::array<KernelEntry, 5> const entries = [] {
    auto const prefill = sparse_mla::prefill_kernels();
    auto const decode = sparse_mla::decode_kernels();
    return std::array<KernelEntry, 5>{prefill[0], prefill[1], prefill[2], decode[0], decode[1]};
  }();
  return {entries.data(), static_cast<int>(entries.size())};
}

}  // namespace dsa_ops
