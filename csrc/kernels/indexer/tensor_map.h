// Tensor maps of e4m3 tensors, with the driver reached through the runtime (no link to libcuda).
#pragma once
#include <cuda.h>

#include <cstdint>

#include "dsa_ops/status.h"

namespace dsa_ops::indexer {

struct TensorMapDim {
  int64_t size;
  int64_t stride_bytes;  // ignored for the first dimension and for a size of 1
  int32_t box;           // may exceed the size: what lies outside reads as zero
};

// Dimensions from the innermost (contiguous, 128 bytes, 128B swizzle) to the outermost.
Status encode_tensor_map(CUtensorMap* map, void const* base, TensorMapDim const* dims, int rank,
                         char const* op) noexcept;

}  // namespace dsa_ops::indexer
