// The kernels that each source file of this folder compiles, for the library's kernel table.
#pragma once
#include <array>

#include "kernels/launch.h"

namespace dsa_ops::sparse_mla {

std::array<KernelEntry, 5> prefill_kernels();
std::array<KernelEntry, 2> decode_kernels();  // without those of fp8/

}  // namespace dsa_ops::sparse_mla
