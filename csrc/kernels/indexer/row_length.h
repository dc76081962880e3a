// How many keys a row of a paged call sees.
#pragma once
#include <cstdint>

namespace dsa_ops::indexer {

struct RowLengths {
  int32_t const* context_lens;  // [batch, next_n] or [batch]
  int64_t stride;               // between requests
  int32_t next_n;
  int32_t max_length;  // the smaller of max_context_len and what the block table holds
  bool per_token;

#ifdef __CUDACC__
  __device__ __forceinline__ int32_t of(int32_t request, int32_t token) const {
    int64_t const given = __ldg(context_lens + request * stride + (per_token ? token : 0));
    int64_t const length = per_token ? given : given - next_n + 1 + token;
    return static_cast<int32_t>(length < 0 ? 0 : length < max_length ? length : max_length);
  }
#endif
};

}  // namespace dsa_ops::indexer
