// Entry point of topk: checks, plan, launch of one of four kernels; and the kernels' table.
#include <algorithm>
#include <cstdint>
#include <limits>

#include "dsa_ops/topk.h"
#include "kernels/launch.h"
#include "kernels/topk/binned/binned_topk.cuh"
#include "kernels/topk/gated/gated_topk.cuh"
#include "kernels/topk/kernel_args.h"
#include "kernels/topk/launcher.h"
#include "kernels/topk/plan.h"
#include "kernels/topk/resident/resident_topk.cuh"
#include "kernels/topk/staged/staged_topk.cuh"

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
  // A launch has at most 2^31 - 1 blocks. Only few rows take clusters of more than 8.
  int64_t const max_rows = std::numeric_limits<int32_t>::max() / 8;
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

RowStarts row_starts(TopkParams const& params, indexer::RowLengths const& lengths) {
  int64_t const packet = params.logits_type == LogitsType::kFloat32 ? 4 : 8;
  if (params.logits_row_stride % packet != 0 ||
      reinterpret_cast<uintptr_t>(params.logits) % 16 != 0) {
    return RowStarts::kAnywhere;
  }
  bool const from_zero = params.row_starts == nullptr || lengths.context_lens != nullptr;
  return from_zero ? RowStarts::kAligned : RowStarts::kAlignedRows;
}

struct Launch {
  KernelArgs args;
  TopkPlan plan;
  bool pdl;
  cudaStream_t stream;
};

template <auto kKernel, int kClusterSize>
Status launch_kernel(Launch const& launch) {
  if (Status status = allow_shared_memory<kKernel>(kMaxDynamicBytes, kOp); !status.ok()) {
    return status;
  }
  if constexpr (kClusterSize > kPortableCluster) {
    cudaError_t const error =
        cudaFuncSetAttribute(kKernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
    if (error != cudaSuccess) return cuda_status(error, kOp);
  }
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = launch.pdl ? 1 : 0;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim = {kClusterSize, 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(launch.plan.num_blocks));
  config.blockDim = dim3(launch.plan.block_threads);
  config.dynamicSmemBytes = launch.plan.shared_bytes;
  config.stream = launch.stream;
  config.attrs = attributes;
  config.numAttrs = kClusterSize > 1 ? 2 : 1;
  return cluster_status(cudaLaunchKernelEx(&config, kKernel, launch.args), kClusterSize, kOp);
}

template <LogitsType kType, int kClusterSize>
constexpr auto kGated =
    gated::gated_topk_kernel<kType, kClusterSize, gated::kThreads, gated::min_blocks(kClusterSize)>;

template <LogitsType kType>
Status launch_gated(Launch const& launch) {
  switch (launch.plan.cluster_size) {
    case 1: return launch_kernel<kGated<kType, 1>, 1>(launch);
    case 2: return launch_kernel<kGated<kType, 2>, 2>(launch);
    case 8: return launch_kernel<kGated<kType, 8>, 8>(launch);
    default: return launch_kernel<kGated<kType, 16>, 16>(launch);
  }
}

template <LogitsType kType>
Status launch_as_planned(Launch const& launch) {
  switch (launch.plan.selector) {
    case Selector::kBinned: return launch_kernel<binned::binned_topk_kernel<kType>, 1>(launch);
    case Selector::kResident: {
      return launch_kernel<resident::resident_topk_kernel<kType>, resident::kClusterSize>(launch);
    }
    case Selector::kStaged: return launch_kernel<staged::staged_topk_kernel<kType>, 1>(launch);
    default: return launch_gated<kType>(launch);
  }
}

Status launch_plan(TopkParams const& params, indexer::RowLengths const& lengths,
                   TopkPlan const& plan, cudaStream_t stream) {
  Launch const launch{kernel_args(params, lengths, plan.capacity, plan.window_words), plan,
                      params.pdl, stream};
  return params.logits_type == LogitsType::kFloat32
             ? launch_as_planned<LogitsType::kFloat32>(launch)
             : launch_as_planned<LogitsType::kBfloat16>(launch);
}

Status launch_topk(TopkParams const& params, indexer::RowLengths const& lengths,
                   cudaStream_t stream) {
  if (Status status = check(params); !status.ok()) return status;
  DeviceProperties device;
  if (Status status = current_device(&device, kOp); !status.ok()) return status;
  if (params.num_rows == 0) return Status{};
  TopkPlan const plan = plan_topk(params.num_rows, params.num_columns, params.top_k,
                                  row_starts(params, lengths), device.num_sms);
  Status const status = launch_plan(params, lengths, plan, stream);
  if (status.code != kClusterTooLarge) return status;
  TopkPlan const portable = plan_portable(params.num_rows, params.num_columns, params.top_k);
  return launch_plan(params, lengths, portable, stream);
}

template <LogitsType kType>
KernelEntry binned_entry(char const* tile) {
  constexpr int kRegisters = 65536 / binned::kThreads;
  return KernelEntry{{"binned_topk_kernel", kOp, tile, binned::kThreads, 0, kRegisters},
                     reinterpret_cast<void const*>(&binned::binned_topk_kernel<kType>)};
}

template <LogitsType kType>
KernelEntry resident_entry(char const* tile) {
  constexpr int kRegisters = 65536 / resident::kThreads;
  return KernelEntry{{"resident_topk_kernel", kOp, tile, resident::kThreads, 0, kRegisters},
                     reinterpret_cast<void const*>(&resident::resident_topk_kernel<kType>)};
}

template <LogitsType kType>
KernelEntry staged_entry(char const* tile) {
  constexpr int kRegisters = 65536 / (staged::kThreads * staged::kMinBlocks);
  return KernelEntry{
      {"staged_topk_kernel", kOp, tile, staged::kThreads, kMaxDynamicBytes, kRegisters},
      reinterpret_cast<void const*>(&staged::staged_topk_kernel<kType>)};
}

template <LogitsType kType, int kClusterSize>
KernelEntry gated_entry(char const* tile) {
  constexpr int kRegisters = 65536 / (gated::kThreads * gated::min_blocks(kClusterSize));
  return KernelEntry{
      {"gated_topk_kernel", kOp, tile, gated::kThreads, kMaxDynamicBytes, kRegisters},
      reinterpret_cast<void const*>(kGated<kType, kClusterSize>)};
}

}  // namespace
}  // namespace topk_sm90

Status topk_sm90::topk_of_lengths(TopkParams const& params, indexer::RowLengths const& lengths,
                                  cudaStream_t stream) noexcept {
  return launch_topk(params, lengths, stream);
}

inline namespace v0 {

Status topk(TopkParams const& params, cudaStream_t stream) noexcept {
  return topk_sm90::launch_topk(params, indexer::RowLengths{}, stream);
}

}  // namespace v0

KernelList topk_kernels() {
  using namespace topk_sm90;
  static KernelEntry const entries[] = {
      binned_entry<LogitsType::kFloat32>("a float32 row of 8,192 logits"),
      staged_entry<LogitsType::kFloat32>("a float32 row of 8,192 logits"),
      resident_entry<LogitsType::kFloat32>("8,192 float32 logits of a row"),
      gated_entry<LogitsType::kFloat32, 1>("a float32 row"),
      gated_entry<LogitsType::kFloat32, 2>("a half of a float32 row"),
      gated_entry<LogitsType::kFloat32, 8>("an eighth of a float32 row"),
      gated_entry<LogitsType::kFloat32, 16>("a sixteenth of a float32 row"),
      binned_entry<LogitsType::kBfloat16>("a bfloat16 row of 8,192 logits"),
      staged_entry<LogitsType::kBfloat16>("a bfloat16 row of 8,192 logits"),
      resident_entry<LogitsType::kBfloat16>("8,192 bfloat16 logits of a row"),
      gated_entry<LogitsType::kBfloat16, 1>("a bfloat16 row"),
      gated_entry<LogitsType::kBfloat16, 2>("a half of a bfloat16 row"),
      gated_entry<LogitsType::kBfloat16, 8>("an eighth of a bfloat16 row"),
      gated_entry<LogitsType::kBfloat16, 16>("a sixteenth of a bfloat16 row"),
  };
  return KernelList{entries, sizeof(entries) / sizeof(entries[0])};
}

}  // namespace dsa_ops
