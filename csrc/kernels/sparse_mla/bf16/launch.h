// Host side of the kernel over bf16 values.
#pragma once
#include <array>

#include "kernels/launch.h"
#include "kernels/sparse_mla/kernel_args.h"

namespace dsa_ops::sparse_mla::bf16 {

// args: rows of head_dim 576 or 512, no splits.
Status launch_rows(KernelArgs const& args, int32_t head_dim, int num_sms, char const* op,
                   cudaStream_t stream);

// args: a paged cache, no packs.
Status launch_cache(KernelArgs const& args, int num_sms, char const* op, cudaStream_t stream);

std::array<KernelEntry, 5> kernels();

}  // namespace dsa_ops::sparse_mla::bf16
