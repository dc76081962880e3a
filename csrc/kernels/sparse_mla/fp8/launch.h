// Host side of the FP8-cache kernel.
#pragma once
#include <array>

#include "kernels/launch.h"
#include "kernels/sparse_mla/kernel_args.h"

namespace dsa_ops::sparse_mla::fp8 {

// Tiles of `tile_heads` (8, 16, 32 or 64) heads of one row, and their splits, on a device with
// `num_sms` multiprocessors. The splits of a row are a cluster (two with tiles of 64 heads), or
// join `through_scratch`, args.part_values and args.part_sums.
Status launch(KernelArgs const& args, int64_t num_rows, int32_t tile_heads, bool through_scratch,
              int32_t num_sms, char const* op, cudaStream_t stream);

std::array<KernelEntry, 26> kernels();

}  // namespace dsa_ops::sparse_mla::fp8
