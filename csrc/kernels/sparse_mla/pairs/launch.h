// Host side of the pairs kernel.
#pragma once
#include <array>

#include "kernels/launch.h"
#include "kernels/sparse_mla/kernel_args.h"

namespace dsa_ops::sparse_mla::pairs {

// args: flat rows of head_dim 576 or 512, neither packs nor splits.
Status launch(KernelArgs const& args, int32_t head_dim, int num_sms, char const* op,
              cudaStream_t stream);

std::array<KernelEntry, 2> kernels();

}  // namespace dsa_ops::sparse_mla::pairs
