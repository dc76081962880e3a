// Kernels of this folder's own source files, for the library's kernel table.
#pragma once
#include <array>

#include "kernels/launch.h"

namespace dsa_ops::sparse_mla {

std::array<KernelEntry, 3> combine_kernels();

}  // namespace dsa_ops::sparse_mla
