// The indexer's entry points: argument checks, plan, tensor maps, launch.
#include "dsa_ops/indexer.h"

#include <algorithm>
#include <array>
#include <cstdint>

#include "kernels/indexer/launchers.h"
#include "kernels/indexer/tensor_map.h"
#include "kernels/indexer/traits.h"
#include "kernels/launch.h"

namespace dsa_ops {
namespace {

using indexer::kHeadDim;
using indexer::kPageBytes;
using indexer::kPageKeys;
using indexer::kStageKeys;

// Positions are 32-bit in the kernels, with a tile to spare.
constexpr int64_t kMaxExtent = INT32_MAX - 4 * kStageKeys;

// The first failed check of a call, or ok.
class Checks {
 public:
  explicit Checks(char const* op) : op_(op) {}

  void extent(char const* argument, int64_t value) {
    if (value >= 0 && value <= kMaxExtent) return;
    fail(make_status(StatusCode::kInvalidArgument, "%s: %s must be in [0, %lld], got %lld", op_,
                     argument, static_cast<long long>(kMaxExtent), static_cast<long long>(value)));
  }
  void heads(int32_t value) {
    if (value == 8 || value == 16 || value == 32 || value == 64) return;
    fail(make_status(StatusCode::kInvalidArgument,
                     "%s: num_heads must be 8, 16, 32 or 64, got %d", op_, value));
  }
  void aligned(char const* argument, void const* pointer) {
    if (reinterpret_cast<uintptr_t>(pointer) % 16 == 0) return;
    fail(make_status(StatusCode::kInvalidArgument,
                     "%s: %s must be aligned to 16 bytes, got address %p", op_, argument, pointer));
  }
  // The stride of a dimension of `size` entries, which is free when there is only one.
  void stride(char const* argument, int64_t size, int64_t value) {
    if (size <= 1 || (value >= 0 && value % 16 == 0)) return;
    fail(make_status(StatusCode::kInvalidArgument,
                     "%s: %s must be a multiple of 16 bytes, got %lld", op_, argument,
                     static_cast<long long>(value)));
  }
  Status const& status() const { return status_; }

 private:
  void fail(Status const& status) {
    if (status_.ok()) status_ = status;
  }

  char const* op_;
  Status status_;
};

Status check(IndexerLogitsParams const& p, char const* op) {
  Checks checks(op);
  checks.extent("num_rows", p.num_rows);
  checks.extent("num_keys", p.num_keys);
  checks.heads(p.num_heads);
  checks.aligned("q", p.q);
  checks.stride("q_row_stride", p.num_rows, p.q_row_stride);
  checks.stride("q_head_stride", p.num_heads, p.q_head_stride);
  checks.aligned("k", p.k);
  checks.stride("k_stride", p.num_keys, p.k_stride);
  return checks.status();
}

}  // namespace

inline namespace v0 {

Status indexer_logits(IndexerLogitsParams const& p, cudaStream_t stream) noexcept {
  constexpr char const* kOp = "indexer_logits";
  Status status = check(p, kOp);
  if (!status.ok() || p.num_rows == 0 || p.num_keys == 0) return status;
  DeviceProperties device;
  status = current_device(&device, kOp);
  if (!status.ok()) return status;

  indexer::RaggedPlan const plan =
      indexer::plan_ragged(static_cast<int32_t>(p.num_rows), static_cast<int32_t>(p.num_keys),
                           p.num_heads, device.num_sms);
  indexer::RaggedArgs args{};
  indexer::TensorMapDim const queries[] = {{kHeadDim, 0, kHeadDim},
                                           {p.num_heads, p.q_head_stride, p.num_heads},
                                           {p.num_rows, p.q_row_stride, 256 / p.num_heads}};
  indexer::TensorMapDim const keys[] = {{kHeadDim, 0, kHeadDim},
                                        {p.num_keys, p.k_stride, kStageKeys}};
  status = indexer::encode_tensor_map(&args.query_map, p.q, queries, 3, kOp);
  if (status.ok()) status = indexer::encode_tensor_map(&args.key_map, p.k, keys, 2, kOp);
  if (!status.ok()) return status;

  args.k_scale = p.k_scale;
  args.weights = p.weights;
  args.weights_row_stride = p.weights_row_stride;
  args.row_starts = p.row_starts;
  args.row_ends = p.row_ends;
  args.logits = p.logits;
  args.logits_row_stride = p.logits_row_stride;
  args.num_rows = static_cast<int32_t>(p.num_rows);
  args.num_keys = static_cast<int32_t>(p.num_keys);
  args.units = plan.units;
  args.chunks = plan.chunks;
  args.chunk_keys = plan.chunk_keys;
  return indexer::launch_ragged(args, p.num_heads, p.clean, plan.grid, stream);
}

}  // namespace v0
}  // namespace dsa_ops
