// topk as other ops call it.
#pragma once
#include <cuda_runtime_api.h>

#include "dsa_ops/topk.h"
#include "kernels/indexer/row_length.h"

namespace dsa_ops::topk_sm90 {

// Rows start at zero and have the lengths of a paged call; row_starts and row_ends are ignored.
Status topk_of_lengths(TopkParams const& params, indexer::RowLengths const& lengths,
                       cudaStream_t stream) noexcept;

}  // namespace dsa_ops::topk_sm90
