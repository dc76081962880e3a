#include "kernels/sparse_mla/kernels.h"

#include <algorithm>

#include "kernels/sparse_mla/fp8/launch.h"
#include "kernels/sparse_mla/pairs/launch.h"

namespace dsa_ops {

KernelList sparse_mla_kernels() {
  static auto const entries = [] {
    auto const prefill = sparse_mla::prefill_kernels();
    auto const decode = sparse_mla::decode_kernels();
    auto const fp8 = sparse_mla::fp8::kernels();
    auto const pairs = sparse_mla::pairs::kernels();
    std::array<KernelEntry, prefill.size() + decode.size() + fp8.size() + pairs.size()> all;
    auto end = std::copy(prefill.begin(), prefill.end(), all.begin());
    end = std::copy(decode.begin(), decode.end(), end);
    end = std::copy(fp8.begin(), fp8.end(), end);
    std::copy(pairs.begin(), pairs.end(), end);
    return all;
  }();
  return {entries.data(), static_cast<int>(entries.size())};
}

}  // namespace dsa_ops
