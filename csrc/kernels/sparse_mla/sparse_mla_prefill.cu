#include <cmath>

#include "dsa_ops/sparse_mla.h"
#include "kernels/sparse_mla/kernels.h"
#include "kernels/sparse_mla/launch.cuh"
#include "kernels/sparse_mla/plan.h"

namespace dsa_ops {
namespace sparse_mla {

Status check_common(char const* op, int64_t num_rows, int32_t num_heads, int64_t top_k,
                    int64_t q_row_stride, int64_t q_head_stride, int64_t out_row_stride,
                    int64_t out_head_stride) {
  auto const fail = [op](char const* what, long long got) {
    return make_status(StatusCode::kInvalidArgument, "%s: %s, got %lld", op, what, got);
  };
  if (num_rows < 0) return fail("num_rows must be at least 0", num_rows);
  if (num_heads < 1 || num_heads > kMaxAttentionHeads) {
    return fail("num_heads must be between 1 and 128", num_heads);
  }
  if (top_k < 0 || top_k > INT32_MAX - kBlockTokens) {
    return fail("top_k must be between 0 and 2^31 - 65", top_k);
  }
  if (q_row_stride % 8 || q_head_stride % 8) {
    return fail("q must have strides of a multiple of 8 elements",
                q_row_stride % 8 ? q_row_stride : q_head_stride);
  }
  if (out_row_stride % 8 || out_head_stride % 8) {
    return fail("out must have strides of a multiple of 8 elements",
                out_row_stride % 8 ? out_row_stride : out_head_stride);
  }
  return Status{};
}

}  // namespace sparse_mla

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

  int const head_tiles = (params.num_heads + kTileHeads - 1) / kTileHeads;
  KernelArgs args = {};
  args.q = static_cast<uint16_t const*>(params.q);
  args.q_row_stride = params.q_row_stride;
  args.q_head_stride = params.q_head_stride;
  args.kv = static_cast<uint8_t const*>(params.kv);
  args.kv_stride_bytes = params.kv_row_stride * 2;
  args.num_keys = params.num_keys;
  args.indices = params.indices;
  args.indices_row_stride = params.indices_row_stride;
  args.topk_lens = params.topk_lens;
  args.attn_sink = params.attn_sink;
  args.out = static_cast<uint16_t*>(params.out);
  args.out_row_stride = params.out_row_stride;
  args.out_head_stride = params.out_head_stride;
  args.lse = params.lse;
  args.max_logits = params.max_logits;
  args.num_heads = params.num_heads;
  args.head_tiles = head_tiles;
  args.top_k = static_cast<int32_t>(params.top_k);
  args.num_splits = 1;
  args.blocks_per_split = static_cast<int32_t>((params.top_k + kBlockTokens - 1) / kBlockTokens);
  args.score_scale_log2 = params.sm_scale * static_cast<float>(M_LOG2E);
  return params.head_dim == 576 ? launch<Bf16Rows<576>>(args, params.num_rows, kOp, stream)
                                : launch<Bf16Rows<512>>(args, params.num_rows, kOp, stream);
}

namespace sparse_mla {

std::array<KernelEntry, 2> prefill_kernels() {
  return {{{{"sparse_mla_kernel", "sparse_mla_prefill", "64 heads of one row, 576-dim bf16 rows",
             kThreads, sizeof(SharedStorage<Bf16Rows<576>>), kLaunchRegisters},
            reinterpret_cast<void const*>(&sparse_mla_kernel<Bf16Rows<576>>)},
           {{"sparse_mla_kernel", "sparse_mla_prefill", "64 heads of one row, 512-dim bf16 rows",
             kThreads, sizeof(SharedStorage<Bf16Rows<512>>), kLaunchRegisters},
            reinterpret_cast<void const*>(&sparse_mla_kernel<Bf16Rows<512>>)}}};
}

}  // namespace sparse_mla

}  // namespace dsa_ops
