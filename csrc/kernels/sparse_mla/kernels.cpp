#include "kernels/sparse_mla/kernels.h"

#include <algorithm>

#include "kernels/sparse_mla/bf16/launch.h"
#include "kernels/sparse_mla/fp8/launch.h"
#include "kernels/sparse_mla/fp8/pair_launch.h"
#include "kernels/sparse_mla/union.h"

namespace dsa_ops {

KernelList sparse_mla_kernels() {
  static auto const entries = [] {
    auto const unions = sparse_mla::union_kernels();
    auto const fp8 = sparse_mla::fp8::kernels();
    auto const pairs = sparse_mla::fp8::pair_kernels();
    auto const bf16 = sparse_mla::bf16::kernels();
    auto const combine = sparse_mla::combine_kernels();
    std::array<KernelEntry,
               unions.size() + fp8.size() + pairs.size() + bf16.size() + combine.size()>
        all;
    auto end = std::copy(bf16.begin(), bf16.end(), all.begin());
    end = std::copy(unions.begin(), unions.end(), end);
    end = std::copy(fp8.begin(), fp8.end(), end);
    end = std::copy(pairs.begin(), pairs.end(), end);
    std::copy(combine.begin(), combine.end(), end);
    return all;
  }();
  return {entries.data(), static_cast<int>(entries.size())};
}

}  // namespace dsa_ops
