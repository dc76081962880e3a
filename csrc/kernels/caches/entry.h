// What the entry points of this folder share: argument checks, the launch, the kernel table.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>
#include <initializer_list>

#include "kernels/launch.h"
#include "kernels/rounding.h"

namespace dsa_ops::caches {

// One launch shape for every kernel of this folder. Four blocks per SM leave 64 registers a thread.
inline constexpr int kThreads = 256;
inline constexpr int kBlocksPerSm = 4;
inline constexpr int kMaxRegisters = 65536 / (kThreads * kBlocksPerSm);

// The checks of one entry call; the status is that of the first failure.
class Requirements {
 public:
  explicit Requirements(char const* op) : op_(op) {}

  void at_least(int64_t minimum, int64_t value, char const* argument) {
    if (value >= minimum) return;
    fail("%s: %s must be at least %lld, got %lld", argument, static_cast<long long>(minimum),
         static_cast<long long>(value));
  }

  void pointer(void const* pointer, char const* argument) {
    if (pointer == nullptr) fail("%s: %s must be a device pointer, got null", argument);
  }

  void that(bool condition, char const* argument, char const* expected, int64_t got) {
    if (condition) return;
    fail("%s: %s must be %s, got %lld", argument, expected, static_cast<long long>(got));
  }

  // Base address and strides, in bytes, multiples of 16.
  void aligned_16(void const* pointer, std::initializer_list<int64_t> strides_bytes,
                  char const* argument) {
    if (reinterpret_cast<uintptr_t>(pointer) % 16) {
      fail("%s: %s must be aligned to 16 bytes, got a misaligned base address", argument);
    }
    for (int64_t stride : strides_bytes) {
      if (stride % 16 == 0) continue;
      fail("%s: %s must be aligned to 16 bytes in every stride, got a stride of %lld bytes",
           argument, static_cast<long long>(stride));
    }
  }

  // A paged cache: null only when it has no pages.
  void cache(void const* pointer, int64_t num_pages, int64_t page_stride_bytes, int64_t page_bytes,
             char const* argument) {
    at_least(0, num_pages, "num_pages");
    if (num_pages > 0) this->pointer(pointer, argument);
    if (num_pages > 1) at_least(page_bytes, page_stride_bytes, "page_stride_bytes");
    aligned_16(pointer, {page_stride_bytes}, argument);
  }

  // The requests of a gather: block table and row ranges.
  template <class Params>
  void requests(Params const& params) {
    at_least(0, params.num_requests, "num_requests");
    at_least(0, params.pages_per_request, "pages_per_request");
    at_least(0, params.num_tokens, "num_tokens");
    if (params.num_requests > 0 && params.pages_per_request > 0) {
      pointer(params.block_table, "block_table");
    }
    if (params.num_tokens > 0) pointer(params.cu_seq_lens, "cu_seq_lens");
  }

  Status const& status() const { return status_; }

 private:
  template <class... Values>
  void fail(char const* format, Values... values) {
    if (status_.ok()) {
      status_ = make_status(StatusCode::kInvalidArgument, format, op_, values...);
    }
  }

  char const* op_;
  Status status_;
};

// Launches the blocks that cover the rows. 2^31 - 1 blocks cover more rows than fit a device's
// memory, so the row count needs no other limit.
template <class... Params>
Status launch_rows(void (*kernel)(Params...), int64_t num_rows, int rows_per_block,
                   cudaStream_t stream, char const* op, Params... params) {
  if (num_rows == 0) return Status{};
  DeviceProperties properties;
  if (Status status = current_device(&properties, op); !status.ok()) return status;
  int64_t const blocks = ceil_div(num_rows, rows_per_block);
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(kThreads);
  config.stream = stream;
  return cuda_status(cudaLaunchKernelEx(&config, kernel, params...), op);
}

// One entry of the kernel table per .cu file, collected in kernels.cpp.
extern KernelEntry const kWriteIndexCacheKernel;
extern KernelEntry const kGatherIndexCacheKernel;
extern KernelEntry const kWriteMlaCacheKernel;
extern KernelEntry const kGatherMlaCacheKernel;
extern KernelEntry const kPrepareIndexQKernel;
extern KernelEntry const kPrepareIndexKKernel;
extern KernelEntry const kMergeStatesKernel;

}  // namespace dsa_ops::caches
