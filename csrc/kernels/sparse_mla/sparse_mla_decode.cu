#include <algorithm>

#include "dsa_ops/sparse_mla.h"
#include "kernels/sparse_mla/bf16/launch.h"
#include "kernels/sparse_mla/checks.h"
#include "kernels/sparse_mla/combine.cuh"
#include "kernels/sparse_mla/fp8/launch.h"
#include "kernels/sparse_mla/kernels.h"
#include "kernels/sparse_mla/plan.h"

namespace dsa_ops {
namespace sparse_mla {

namespace {

Status check_cache(SparseMlaDecodeParams const& params, char const* op) {
  if (params.page_size < 1 || params.page_size > INT32_MAX) {
    return make_status(StatusCode::kInvalidArgument,
                       "%s: page_size must be between 1 and 2^31 - 1, got %lld", op,
                       static_cast<long long>(params.page_size));
  }
  if (params.cache_format != MlaCacheFormat::kFp8 && params.cache_format != MlaCacheFormat::kBf16) {
    return make_status(StatusCode::kInvalidArgument, "%s: cache_format must be 0 or 1, got %d", op,
                       static_cast<int>(params.cache_format));
  }
  if (params.page_stride_bytes % 16 || reinterpret_cast<uintptr_t>(params.kv_cache) % 16) {
    return make_status(StatusCode::kInvalidArgument,
                       "%s: kv_cache must be aligned to 16 bytes in base and page stride, got a "
                       "page stride of %lld bytes",
                       op, static_cast<long long>(params.page_stride_bytes));
  }
  return Status{};
}

Status combine(KernelArgs const& args, int64_t num_rows, char const* op, cudaStream_t stream) {
  CombineArgs combine_args = {};
  combine_args.partial_out = args.partial_out;
  combine_args.partial_lse = args.partial_lse;
  combine_args.attn_sink = args.attn_sink;
  combine_args.out = args.out;
  combine_args.out_row_stride = args.out_row_stride;
  combine_args.out_head_stride = args.out_head_stride;
  combine_args.lse = args.lse;
  combine_args.num_heads = args.num_heads;
  combine_args.num_splits = args.num_splits;
  // A launch is split only while its tiles do not fill the device, so the grid is small.
  dim3 const grid(static_cast<unsigned>(num_rows * args.num_heads));
  auto const kernel = args.num_splits <= 4   ? combine_kernel<4>
                      : args.num_splits <= 8 ? combine_kernel<8>
                                             : combine_kernel<16>;
  return launch_grid(kernel, combine_args, grid, kCombineThreads, 0, op, stream, true);
}

template <int kBatch>
KernelEntry combine_entry() {
  return {{"combine_kernel", "sparse_mla_decode", "one head of one row", kCombineThreads, 0, 255},
          reinterpret_cast<void const*>(&combine_kernel<kBatch>)};
}

KernelArgs kernel_args(SparseMlaDecodeParams const& params, SplitPlan const& plan) {
  KernelArgs args = common_kernel_args(params);
  args.kv = static_cast<uint8_t const*>(params.kv_cache);
  args.kv_stride_bytes = params.page_stride_bytes;
  set_page_size(args, static_cast<uint32_t>(params.page_size));
  args.num_keys = params.num_pages * params.page_size;
  args.head_tiles = plan.head_tiles;
  args.num_splits = plan.num_splits;
  args.blocks_per_split = plan.blocks_per_split;
  return args;
}

Status decode_fp8(SparseMlaDecodeParams const& params, int num_sms, char const* op,
                  cudaStream_t stream) {
  SplitPlan const plan = plan_fp8(params.num_rows, params.num_heads, params.top_k, num_sms);
  PartBytes const parts = fp8_part_bytes(plan, params.num_rows);
  if (Status status = check_workspace(params.workspace, params.workspace_bytes, parts.total(), op);
      !status.ok()) {
    return status;
  }
  KernelArgs args = kernel_args(params, plan);
  args.part_values = static_cast<uint2*>(params.workspace);
  args.part_sums = reinterpret_cast<float2*>(static_cast<char*>(params.workspace) + parts.values);
  args.limits_copies = fp8_limits_copies(plan, params.num_rows);
  args.headroom_log2 = static_cast<float>(fp8_headroom_log2(plan, params.top_k));
  return fp8::launch(args, params.num_rows, plan.tile_heads, plan.through_scratch, num_sms, op,
                     stream);
}

Status decode_bf16(SparseMlaDecodeParams const& params, int num_sms, char const* op,
                   cudaStream_t stream) {
  SplitPlan const plan = plan_bf16(params.num_rows, params.num_heads, params.top_k, num_sms);
  PartialBytes const partial = partial_bytes(plan, params.num_rows, params.num_heads);
  if (Status status =
          check_workspace(params.workspace, params.workspace_bytes, partial.total(), op);
      !status.ok()) {
    return status;
  }
  KernelArgs args = kernel_args(params, plan);
  args.partial_out = static_cast<float*>(params.workspace);
  args.partial_lse =
      reinterpret_cast<float*>(static_cast<char*>(params.workspace) + partial.output);
  Status status = bf16::launch_cache(args, num_sms, op, stream);
  if (status.ok() && plan.num_splits > 1) status = combine(args, params.num_rows, op, stream);
  return status;
}

}  // namespace
}  // namespace sparse_mla

size_t v0::sparse_mla_decode_workspace_bytes(int64_t num_rows, int32_t num_heads, int64_t top_k,
                                             int32_t num_sms) noexcept {
  using namespace sparse_mla;
  SplitPlan const bf16 = plan_bf16(num_rows, num_heads, top_k, num_sms);
  SplitPlan const fp8 = plan_fp8(num_rows, num_heads, top_k, num_sms);
  return std::max(partial_bytes(bf16, num_rows, num_heads).total(),
                  fp8_part_bytes(fp8, num_rows).total());
}

Status v0::sparse_mla_decode(SparseMlaDecodeParams const& params, cudaStream_t stream) noexcept {
  using namespace sparse_mla;
  constexpr char kOp[] = "sparse_mla_decode";
  if (Status status =
          check_common(kOp, params.num_rows, params.num_heads, params.top_k, params.q_row_stride,
                       params.q_head_stride, params.out_row_stride, params.out_head_stride);
      !status.ok()) {
    return status;
  }
  if (Status status = check_cache(params, kOp); !status.ok()) return status;
  DeviceProperties device;
  if (Status status = current_device(&device, kOp); !status.ok()) return status;
  if (params.num_rows == 0) return Status{};
  return params.cache_format == MlaCacheFormat::kFp8
             ? decode_fp8(params, device.num_sms, kOp, stream)
             : decode_bf16(params, device.num_sms, kOp, stream);
}

namespace sparse_mla {

std::array<KernelEntry, 3> combine_kernels() {
  return {combine_entry<4>(), combine_entry<8>(), combine_entry<16>()};
}

}  // namespace sparse_mla

}  // namespace dsa_ops
