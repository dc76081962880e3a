// The row lengths of a paged call as an array, in the form that topk reads.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/indexer/row_length.h"
#include "kernels/launch.h"

namespace dsa_ops::topk_detail {

Status write_row_lengths(indexer::RowLengths const& lengths, int32_t num_rows, int32_t* out,
                         cudaStream_t stream, char const* op) noexcept;
KernelEntry row_lengths_kernel();

}  // namespace dsa_ops::topk_detail
