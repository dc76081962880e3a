// Host side of the form for 65 to 128 heads: see pair_traits.h.
#pragma once
#include <array>

#include "kernels/launch.h"
#include "kernels/sparse_mla/kernel_args.h"

namespace dsa_ops::sparse_mla::fp8 {

// args.num_rows rows of 65 to 128 heads, whose index lists are not split, on a device with
// `num_sms` multiprocessors.
Status launch_pairs(KernelArgs const& args, int32_t num_sms, char const* op, cudaStream_t stream);

std::array<KernelEntry, 2> pair_kernels();

}  // namespace dsa_ops::sparse_mla::fp8
