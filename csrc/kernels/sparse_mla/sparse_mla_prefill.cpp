#include <algorithm>
#include <utility>

#include "dsa_ops/sparse_mla.h"
#include "kernels/rounding.h"
#include "kernels/sparse_mla/bf16/launch.h"
#include "kernels/sparse_mla/checks.h"
#include "kernels/sparse_mla/plan.h"
#include "kernels/sparse_mla/union.h"

namespace dsa_ops {
namespace sparse_mla {
namespace {

// The arguments of the rows from `first` on.
KernelArgs rows_from(KernelArgs args, int64_t first) {
  args.q += first * args.q_row_stride;
  args.indices += first * args.indices_row_stride;
  if (args.topk_lens) args.topk_lens += first;
  args.out += first * args.out_row_stride;
  args.lse += first * args.num_heads;
  args.max_logits += first * args.num_heads;
  return args;
}

// Chunk by chunk in the same scratch: the unions of the rows' index lists, the attention, and the
// attention again of packs into which a value leaked that is not finite.
Status launch_packs(KernelArgs const& all, PackPlan const& plan, void* workspace, int num_sms,
                    int32_t head_dim, char const* op, cudaStream_t stream) {
  auto* scratch = static_cast<char*>(workspace);
  Unions unions;
  auto const take = [&scratch](size_t bytes) { return std::exchange(scratch, scratch + bytes); };
  unions.leaked = reinterpret_cast<int32_t*>(take(plan.kFlagBytes));
  unions.tiles = reinterpret_cast<PackTile*>(take(plan.tiles_bytes));
  unions.repairs = reinterpret_cast<PackTile*>(take(plan.tiles_bytes));
  unions.keys = reinterpret_cast<int32_t*>(take(plan.keys_bytes));
  unions.members = reinterpret_cast<uint8_t*>(take(plan.members_bytes));
  unions.capacity = plan.capacity;
  for (int64_t first = 0; first < all.num_rows; first += plan.chunk_rows) {
    KernelArgs args = rows_from(all, first);
    args.num_rows = std::min(plan.chunk_rows, all.num_rows - first);
    args.pack_rows = plan.pack_rows;
    args.unions = unions;
    args.tiles = unions.tiles;
    float const max_share = max_union_share(args.num_rows, plan.pack_rows, num_sms);
    Status status =
        build_unions({args.indices, args.indices_row_stride, args.topk_lens, args.num_rows,
                      args.num_keys, args.top_k, args.pack_rows, max_share, unions},
                     op, stream);
    if (status.ok()) status = bf16::launch_rows(args, head_dim, num_sms, op, stream);
    args.tiles = unions.repairs;
    if (status.ok()) status = bf16::launch_rows(args, head_dim, num_sms, op, stream);
    if (!status.ok()) return status;
  }
  return Status{};
}

}  // namespace
}  // namespace sparse_mla

size_t v0::sparse_mla_prefill_workspace_bytes(int64_t num_rows, int32_t num_heads, int64_t top_k,
                                              int32_t num_sms) noexcept {
  return sparse_mla::plan_packs(num_rows, num_heads, top_k, num_sms).total();
}

Status v0::sparse_mla_prefill(SparseMlaPrefillParams const& params, cudaStream_t stream) noexcept {
  using namespace sparse_mla;
  constexpr char kOp[] = "sparse_mla_prefill";
  if (Status status =
          check_common(kOp, params.num_rows, params.num_heads, params.top_k, params.q_row_stride,
                       params.q_head_stride, params.out_row_stride, params.out_head_stride);
      !status.ok()) {
    return status;
  }
  if (params.head_dim != 576 && params.head_dim != 512) {
    return make_status(StatusCode::kInvalidArgument, "%s: head_dim must be 576 or 512, got %d", kOp,
                       params.head_dim);
  }
  if (params.kv_row_stride % 8) {
    return make_status(StatusCode::kInvalidArgument,
                       "%s: kv must have a row stride of a multiple of 8 elements, got %lld", kOp,
                       static_cast<long long>(params.kv_row_stride));
  }
  DeviceProperties device;
  if (Status status = current_device(&device, kOp); !status.ok()) return status;
  if (params.num_rows == 0) return Status{};
  PackPlan const plan = plan_packs(params.num_rows, params.num_heads, params.top_k, device.num_sms);
  if (Status status = check_workspace(params.workspace, params.workspace_bytes, plan.total(), kOp);
      !status.ok()) {
    return status;
  }

  KernelArgs args = common_kernel_args(params);
  args.kv = static_cast<uint8_t const*>(params.kv);
  args.kv_stride_bytes = params.kv_row_stride * 2;
  args.num_keys = params.num_keys;
  args.max_logits = params.max_logits;
  args.head_tiles = static_cast<int32_t>(ceil_div(params.num_heads, kTileHeads));
  args.num_splits = 1;
  args.blocks_per_split = static_cast<int32_t>(ceil_div(params.top_k, kBlockTokens));
  if (plan.pack_rows == 1) {
    return bf16::launch_rows(args, params.head_dim, device.num_sms, kOp, stream);
  }
  return launch_packs(args, plan, params.workspace, device.num_sms, params.head_dim, kOp, stream);
}

}  // namespace dsa_ops
