#include "kernels/sparse_mla/kernels.h"

#include <algorithm>

namespace dsa_ops {

KernelList sparse_mla_kernels() {
  static auto const entries = [] {
    auto const prefill = sparse_mla::prefill_kernels();
    auto const decode = sparse_mla::decode_kernels();
    std::array<KernelEntry, prefill.size() + decode.size()> all;
    std::copy(decode.begin(), decode.end(), std::copy(prefill.begin(), prefill.end(), all.begin()));
    return all;
  }();
  return {entries.data(), static_cast<int>(entries.size())};
}

}  // namespace dsa_ops
