// Kernels of this folder's own source files, for the library's kernel table.
#pragma once
#include "kernels/launch.h"

namespace dsa_ops::sparse_mla {

KernelEntry combine_entry();

}  // namespace dsa_ops::sparse_mla
