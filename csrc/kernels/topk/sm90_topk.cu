// Entry point of topk: checks, plan, launch of one of two kernels; and the kernels' table.
#include <algorithm>
#include <cstdint>
#include <limits>

#include "dsa_ops/topk.h"
#include "kernels/launch.h"
#include "kernels/topk/gated/gated_topk.cuh"
#include "kernels/topk/plan.h"
#include "kernels/topk/resident/resident_topk.cuh"

namespace dsa_ops {
namespace topk_sm90 {
namespace {

constexpr char kOp[] = "topk";

Status invalid(char const* argument, char const* expected, int64_t got) {
  return make_status(StatusCode::kInvalidArgument, "%s: %s must be %s, got %lld", kOp, argument,
                     expected, static_cast<long long>(got));
}

Status check(TopkParams const& params) {
  if (params.logits_type != LogitsType::kFloat32 && params.logits_type != LogitsType::kBfloat16) {
    return invalid("logits_type", "kFloat32 or kBfloat16",
                   static_cast<int64_t>(params.logits_type));
  }
  // A launch has at most 2^31 - 1 blocks. Only few rows take larger clusters than the resident
  // ones.
  int64_t const max_rows = std::numeric_limits<int32_t>::max() / resident::kMaxClusterSize;
  if (params.num_rows < 0 || params.num_rows > max_rows) {
    return invalid("num_rows", "between 0 and 268435455", params.num_rows);
  }
  if (params.num_columns < 0) return invalid("num_columns", "at least 0", params.num_columns);
  if (params.top_k < 1 || params.top_k > kMaxTopk) {
    return invalid("top_k", "between 1 and 4096", params.top_k);
  }
  if (!params.to_slots) return Status{};
  if (params.num_requests < 0) return invalid("num_requests", "at least 0", params.num_requests);
  if (params.pages_per_request < 0) {
    return invalid("pages_per_request", "at least 0", params.pages_per_request);
  }
  if (params.row_to_request == nullptr && params.num_rows > 0 &&
      (params.num_requests == 0 || params.num_rows % params.num_requests != 0)) {
    return invalid("num_requests", "a divisor of num_rows without row_to_request",
                   params.num_requests);
  }
  return Status{};
}

KernelArgs kernel_args(TopkParams const& params, TopkPlan const& plan) {
  KernelArgs args{};
  args.logits = params.logits;
  args.logits_row_stride = params.logits_row_stride;
  args.row_starts = params.row_starts;
  args.row_ends = params.row_ends;
  args.indices = params.indices;
  args.indices_row_stride = params.indices_row_stride;
  args.to_slots = params.to_slots;
  args.block_table = params.block_table;
  args.block_table_stride = params.block_table_stride;
  args.num_requests = params.num_requests;
  args.pages_per_request = params.pages_per_request;
  args.row_to_request = params.row_to_request;
  args.rows_per_request = static_cast<int32_t>(
      params.num_requests > 0 ? std::max<int64_t>(params.num_rows / params.num_requests, 1) : 1);
  // Row ends are 32-bit: no row reaches further.
  args.num_columns = static_cast<int32_t>(
      std::min<int64_t>(params.num_columns, std::numeric_limits<int32_t>::max()));
  args.top_k = params.top_k;
  args.capacity = plan.capacity;
  args.window_words = plan.window_words;
  return args;
}

template <auto kKernel, int kClusterSize>
Status launch_kernel(TopkParams const& params, TopkPlan const& plan, cudaStream_t stream) {
  if (Status status = allow_shared_memory<kKernel>(kMaxSharedBytes, kOp); !status.ok()) {
    return status;
  }
  if constexpr (kClusterSize > 8) {  // the portable limit
    cudaError_t const error =
        cudaFuncSetAttribute(kKernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
    if (error != cudaSuccess) return cuda_status(error, kOp);
  }
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {kClusterSize, 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(plan.num_blocks));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = plan.shared_bytes;
  config.stream = stream;
  config.attrs = &cluster;
  config.numAttrs = kClusterSize > 1 ? 1 : 0;
  return cuda_status(cudaLaunchKernelEx(&config, kKernel, kernel_args(params, plan)), kOp);
}

template <LogitsType kType, int kClusterSize>
constexpr auto kResident = resident::resident_topk_kernel<kType, kClusterSize>;
template <LogitsType kType, int kClusterSize>
constexpr auto kGated = gated::gated_topk_kernel<kType, kClusterSize>;

template <LogitsType kType>
Status launch_resident(TopkParams const& params, TopkPlan const& plan, cudaStream_t stream) {
  switch (plan.cluster_size) {
    case 1: return launch_kernel<kResident<kType, 1>, 1>(params, plan, stream);
    case 2: return launch_kernel<kResident<kType, 2>, 2>(params, plan, stream);
    case 4: return launch_kernel<kResident<kType, 4>, 4>(params, plan, stream);
    default: return launch_kernel<kResident<kType, 8>, 8>(params, plan, stream);
  }
}

template <LogitsType kType>
Status launch_gated(TopkParams const& params, TopkPlan const& plan, cudaStream_t stream) {
  switch (plan.cluster_size) {
    case 1: return launch_kernel<kGated<kType, 1>, 1>(params, plan, stream);
    case 2: return launch_kernel<kGated<kType, 2>, 2>(params, plan, stream);
    case 4: return launch_kernel<kGated<kType, 4>, 4>(params, plan, stream);
    default: return launch_kernel<kGated<kType, 16>, 16>(params, plan, stream);
  }
}

template <LogitsType kType>
Status launch(TopkParams const& params, TopkPlan const& plan, cudaStream_t stream) {
  return plan.selector == Selector::kResident ? launch_resident<kType>(params, plan, stream)
                                              : launch_gated<kType>(params, plan, stream);
}

template <LogitsType kType, int kClusterSize>
KernelEntry resident_entry(char const* tile) {
  return KernelEntry{{"resident_topk_kernel", kOp, tile, kThreads, kMaxSharedBytes, kMaxRegisters},
                     reinterpret_cast<void const*>(kResident<kType, kClusterSize>)};
}

template <LogitsType kType, int kClusterSize>
KernelEntry gated_entry(char const* tile) {
  return KernelEntry{{"gated_topk_kernel", kOp, tile, kThreads, kMaxSharedBytes, kMaxRegisters},
                     reinterpret_cast<void const*>(kGated<kType, kClusterSize>)};
}

}  // namespace
}  // namespace topk_sm90

inline namespace v0 {

Status topk(TopkParams const& params, cudaStream_t stream) noexcept {
  using namespace topk_sm90;
  if (Status status = check(params); !status.ok()) return status;
  DeviceProperties device;
  if (Status status = current_device(&device, kOp); !status.ok()) return status;
  if (params.num_rows == 0) return Status{};
  TopkPlan const plan =
      plan_topk(params.num_rows, params.num_columns, params.top_k, device.num_sms);
  return params.logits_type == LogitsType::kFloat32
             ? launch<LogitsType::kFloat32>(params, plan, stream)
             : launch<LogitsType::kBfloat16>(params, plan, stream);
}

}  // namespace v0

KernelList topk_kernels() {
  using namespace topk_sm90;
  static KernelEntry const entries[] = {
      resident_entry<LogitsType::kFloat32, 1>("a float32 row"),
      resident_entry<LogitsType::kFloat32, 2>("a half of a float32 row"),
      resident_entry<LogitsType::kFloat32, 4>("a quarter of a float32 row"),
      resident_entry<LogitsType::kFloat32, 8>("an eighth of a float32 row"),
      resident_entry<LogitsType::kBfloat16, 1>("a bfloat16 row"),
      resident_entry<LogitsType::kBfloat16, 2>("a half of a bfloat16 row"),
      resident_entry<LogitsType::kBfloat16, 4>("a quarter of a bfloat16 row"),
      resident_entry<LogitsType::kBfloat16, 8>("an eighth of a bfloat16 row"),
      gated_entry<LogitsType::kFloat32, 1>("a float32 row"),
      gated_entry<LogitsType::kFloat32, 2>("a half of a float32 row"),
      gated_entry<LogitsType::kFloat32, 4>("a quarter of a float32 row"),
      gated_entry<LogitsType::kFloat32, 16>("a sixteenth of a float32 row"),
      gated_entry<LogitsType::kBfloat16, 1>("a bfloat16 row"),
      gated_entry<LogitsType::kBfloat16, 2>("a half of a bfloat16 row"),
      gated_entry<LogitsType::kBfloat16, 4>("a quarter of a bfloat16 row"),
      gated_entry<LogitsType::kBfloat16, 16>("a sixteenth of a bfloat16 row"),
  };
  return KernelList{entries, sizeof(entries) / sizeof(entries[0])};
}

}  // namespace dsa_ops
