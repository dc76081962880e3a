// Argument checks shared by prefill and decode.
#pragma once
#include "kernels/launch.h"

namespace dsa_ops::sparse_mla {

Status check_common(char const* op, int64_t num_rows, int32_t num_heads, int64_t top_k,
                    int64_t q_row_stride, int64_t q_head_stride, int64_t out_row_stride,
                    int64_t out_head_stride);

}  // namespace dsa_ops::sparse_mla
