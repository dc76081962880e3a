#include "kernels/sparse_mla/kernels.h"

#include <algorithm>

#include "kernels/sparse_mla/fp8/launch.h"

namespace dsa_ops {

KernelList sparse_mla_kernels() {
  static auto const entries = [] {
    auto const prefill = sparse_mla::prefill_kernels();
    auto const decode = sparse_mla::decode_kernels();
    auto const fp8 = sparse_mla::fp8::kernels();
    std::array<KernelEntry, prefill.size() + decode.size() + fp8.size()> all;
    auto end = std::copy(prefill.begin(), prefill.end(), all.begin());
    end = std::copy(decode.begin(), decode.end(), end);
    std::copy(fp8.begin(), fp8.end(), end);
    return all;
  }();
  return {entries.data(), static_cast<int>(entries.size())};
}

}  // namespace dsa_ops
