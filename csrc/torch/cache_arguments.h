// Checks of the paged caches and of what comes with them, shared by every binding that takes one;
// mirrors dsa_ops/ops/_cache_arguments.py.
#pragma once
#include "dsa_ops/caches.h"
#include "torch/common.h"

namespace dsa_ops::binding {

struct PagedCache {
  int64_t num_pages;
  int64_t page_size;
  int64_t page_stride_bytes;
};

inline PagedCache check_cache_layout(Checker const& check, Tensor const& cache,
                                     char const* argument, int64_t token_bytes) {
  int64_t const element = cache.element_size();
  int64_t const page_bytes = cache.size(1) * token_bytes;
  int64_t const page_stride = stride_of(cache, 0, page_bytes / element) * element;
  int64_t const token_stride = stride_of(cache, 1, token_bytes / element) * element;
  auto const stride = [](int64_t bytes) {
    return "a stride of " + std::to_string(bytes) + " bytes";
  };
  check.last_dim_contiguous(cache, argument);
  if (token_stride != token_bytes) {
    check.fail(argument, "packed, " + std::to_string(token_bytes) + " bytes per token",
               stride(token_stride));
  }
  if (page_stride < page_bytes) {
    check.fail(argument, "made of pages at least " + std::to_string(page_bytes) + " bytes apart",
               stride(page_stride));
  }
  if (page_stride % 16 != 0) {
    check.fail(argument, "aligned to 16 bytes in every stride", stride(page_stride));
  }
  if (reinterpret_cast<uintptr_t>(cache.const_data_ptr()) % 16 != 0) {
    check.fail(argument, "aligned to 16 bytes", "a misaligned base address");
  }
  return {cache.size(0), cache.size(1), page_stride};
}

// uint8 [num_pages, 64, 132] or [num_pages, 64, 1, 132], any aligned page stride.
inline PagedCache check_index_cache(Checker const& check, Tensor const& cache,
                                    char const* argument) {
  check.dtype(cache, argument, {ScalarType::Byte});
  if (cache.dim() == 4) {
    check.shape(cache, argument, {-1, kIndexPageTokens, 1, kIndexTokenBytes},
                "[num_pages, 64, 1, 132]");
  } else {
    check.shape(cache, argument, {-1, kIndexPageTokens, kIndexTokenBytes}, "[num_pages, 64, 132]");
  }
  return check_cache_layout(check, cache, argument, kIndexTokenBytes);
}

// [num_pages, page_size, columns] or [num_pages, page_size, 1, columns], any aligned page stride.
inline PagedCache check_cache_tokens(Checker const& check, Tensor const& cache,
                                     char const* argument, int64_t columns) {
  std::string const text = std::to_string(columns) + "]";
  if (cache.dim() == 4) {
    check.shape(cache, argument, {-1, -1, 1, columns},
                ("[num_pages, page_size, 1, " + text).c_str());
  } else {
    check.shape(cache, argument, {-1, -1, columns}, ("[num_pages, page_size, " + text).c_str());
  }
  if (cache.size(1) < 1) {
    check.fail(argument, "of page size at least 1", std::to_string(cache.size(1)));
  }
  return check_cache_layout(check, cache, argument, columns * cache.element_size());
}

// uint8 or e4m3, 656 bytes a token.
inline PagedCache check_mla_cache(Checker const& check, Tensor const& cache, char const* argument) {
  check.dtype(cache, argument, {ScalarType::Byte, ScalarType::Float8_e4m3fn});
  return check_cache_tokens(check, cache, argument, kMlaTokenBytes);
}

// An MLA cache, or bf16 with 576 values a token.
inline PagedCache check_attention_cache(Checker const& check, Tensor const& cache,
                                        char const* argument) {
  check.dtype(cache, argument, {ScalarType::Byte, ScalarType::Float8_e4m3fn, ScalarType::BFloat16});
  bool const is_bf16 = cache.scalar_type() == ScalarType::BFloat16;
  return check_cache_tokens(check, cache, argument, is_bf16 ? kMlaHeadDim : kMlaTokenBytes);
}

// A 16-byte aligned [num_tokens, columns], as the text says; `rows` of -1 accepts any number.
inline void check_rows(Checker const& check, Tensor const& tensor, char const* argument,
                       int64_t rows, int64_t columns, char const* text) {
  check.shape(tensor, argument, {rows, columns}, text);
  check.last_dim_contiguous(tensor, argument);
  check.aligned_16(tensor, argument);
}

// A contiguous vector of the given size, which the text spells out.
inline void check_vector(Checker const& check, Tensor const& tensor, char const* argument,
                         ScalarType type, int64_t size, char const* text) {
  check.dtype(tensor, argument, {type});
  check.shape(tensor, argument, {size}, text);
  check.last_dim_contiguous(tensor, argument);
}

inline void check_requests(Checker const& check, Tensor const& block_table,
                           Tensor const& cu_seq_lens) {
  check.dtype(block_table, "block_table", {ScalarType::Int});
  check.shape(block_table, "block_table", {-1, -1}, "[num_requests, pages_per_request]");
  check.last_dim_contiguous(block_table, "block_table");
  check_vector(check, cu_seq_lens, "cu_seq_lens", ScalarType::Int, block_table.size(0) + 1,
               "[num_requests + 1]");
}

}  // namespace dsa_ops::binding
