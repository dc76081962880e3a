#include "kernels/indexer/tensor_map.h"

#include <cudaTypedefs.h>
#include <cuda_runtime_api.h>

#include "kernels/launch.h"

namespace dsa_ops::indexer {
namespace {

PFN_cuTensorMapEncodeTiled_v12000 find_encoder() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found;
  cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000,
                                                       cudaEnableDefault, &found);
  if (error != cudaSuccess || found != cudaDriverEntryPointSuccess) return nullptr;
  return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(function);
}

}  // namespace

Status encode_tensor_map(CUtensorMap* map, void const* base, TensorMapDim const* dims, int rank,
                         char const* op) noexcept {
  static PFN_cuTensorMapEncodeTiled_v12000 const encode = find_encoder();
  if (encode == nullptr) {
    return make_status(StatusCode::kCudaError,
                       "%s: the driver must offer cuTensorMapEncodeTiled (CUDA 12.0)", op);
  }
  constexpr int kMaxRank = 5;
  cuuint64_t sizes[kMaxRank];
  cuuint64_t strides[kMaxRank];
  cuuint32_t box[kMaxRank];
  cuuint32_t element_strides[kMaxRank];
  for (int i = 0; i < rank; ++i) {
    sizes[i] = static_cast<cuuint64_t>(dims[i].size);
    box[i] = static_cast<cuuint32_t>(dims[i].box);
    element_strides[i] = 1;
    // The stride of a dimension of size 1 may be anything in a tensor, but not in a map.
    if (i > 0)
      strides[i - 1] = dims[i].size > 1 ? static_cast<cuuint64_t>(dims[i].stride_bytes) : 128;
  }
  CUresult const result =
      encode(map, CU_TENSOR_MAP_DATA_TYPE_UINT8, static_cast<cuuint32_t>(rank),
             const_cast<void*>(base), sizes, strides, box, element_strides,
             CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
             CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result == CUDA_SUCCESS) return Status{};
  return make_status(StatusCode::kCudaError, "%s: cuTensorMapEncodeTiled failed with CUresult %d",
                     op, static_cast<int>(result));
}

}  // namespace dsa_ops::indexer
