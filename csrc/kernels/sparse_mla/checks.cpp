#include "kernels/sparse_mla/checks.h"

#include <cstdint>

#include "dsa_ops/sparse_mla.h"
#include "kernels/sparse_mla/plan.h"

namespace dsa_ops::sparse_mla {

Status check_common(char const* op, int64_t num_rows, int32_t num_heads, int64_t top_k,
                    int64_t q_row_stride, int64_t q_head_stride, int64_t out_row_stride,
                    int64_t out_head_stride) {
  auto const fail = [op](char const* what, long long got) {
    return make_status(StatusCode::kInvalidArgument, "%s: %s, got %lld", op, what, got);
  };
  if (num_rows < 0) return fail("num_rows must be at least 0", num_rows);
  if (num_heads < 1 || num_heads > kMaxAttentionHeads) {
    return fail("num_heads must be between 1 and 128", num_heads);
  }
  if (top_k < 0 || top_k > INT32_MAX - kBlockTokens) {
    return fail("top_k must be between 0 and 2^31 - 65", top_k);
  }
  if (q_row_stride % 8 || q_head_stride % 8) {
    return fail("q must have strides of a multiple of 8 elements",
                q_row_stride % 8 ? q_row_stride : q_head_stride);
  }
  if (out_row_stride % 8 || out_head_stride % 8) {
    return fail("out must have strides of a multiple of 8 elements",
                out_row_stride % 8 ? out_row_stride : out_head_stride);
  }
  return Status{};
}

}  // namespace dsa_ops::sparse_mla
