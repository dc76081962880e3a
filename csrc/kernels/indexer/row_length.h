// How many keys a row of a paged call sees.
#pragma once
#include <algorithm>
#include <cstdint>

#include "dsa_ops/indexer.h"
#include "kernels/indexer/traits.h"

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

inline RowLengths row_lengths_of(PagedIndexerLogitsParams const& params) {
  int64_t const max_length =
      std::min(params.max_context_len, params.pages_per_request * int64_t{kPageKeys});
  return RowLengths{params.context_lens, params.context_lens_stride,
                    static_cast<int32_t>(params.next_n), static_cast<int32_t>(max_length),
                    params.context_lens_per_token};
}

}  // namespace dsa_ops::indexer
