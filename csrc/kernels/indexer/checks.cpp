#include "kernels/indexer/checks.h"

#include <cstdint>

#include "kernels/indexer/traits.h"
#include "kernels/launch.h"

namespace dsa_ops::indexer {
namespace {

// Rows and positions are 32-bit in the kernels, with room for a round of tiles.
constexpr int64_t kMaxExtent = INT32_MAX - 32 * kStageKeys;

// The first failed check of a call, or ok.
class Checks {
 public:
  explicit Checks(char const* op) : op_(op) {}

  void extent(char const* argument, int64_t value) {
    if (value >= 0 && value <= kMaxExtent) return;
    fail(make_status(StatusCode::kInvalidArgument, "%s: %s must be between 0 and %lld, got %lld",
                     op_, argument, static_cast<long long>(kMaxExtent),
                     static_cast<long long>(value)));
  }
  void heads(int32_t value) {
    if (value == 8 || value == 16 || value == 32 || value == 64) return;
    fail(make_status(StatusCode::kInvalidArgument, "%s: num_heads must be 8, 16, 32 or 64, got %d",
                     op_, value));
  }
  void num_sms(int32_t value) {
    if (value >= 0) return;
    fail(make_status(StatusCode::kInvalidArgument, "%s: num_sms must be 0 or more, got %d", op_,
                     value));
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

}  // namespace

Status check_arguments(IndexerLogitsParams const& p, char const* op) noexcept {
  Checks checks(op);
  checks.extent("num_rows", p.num_rows);
  checks.extent("num_keys", p.num_keys);
  checks.heads(p.num_heads);
  checks.aligned("q", p.q);
  checks.stride("q_row_stride", p.num_rows, p.q_row_stride);
  checks.stride("q_head_stride", p.num_heads, p.q_head_stride);
  checks.aligned("k", p.k);
  checks.stride("k_stride", p.num_keys, p.k_stride);
  checks.num_sms(p.num_sms);
  return checks.status();
}

Status check_arguments(CachedIndexerLogitsParams const& p, char const* op) noexcept {
  Checks checks(op);
  checks.extent("num_rows", p.num_rows);
  checks.extent("num_pages", p.num_pages);
  checks.extent("num_page_ids", p.num_page_ids);
  if (checks.status().ok()) checks.extent("num_page_ids * 64", p.num_page_ids * kPageKeys);
  checks.heads(p.num_heads);
  checks.aligned("q", p.q);
  checks.stride("q_row_stride", p.num_rows, p.q_row_stride);
  checks.stride("q_head_stride", p.num_heads, p.q_head_stride);
  checks.aligned("index_cache", p.index_cache);
  checks.stride("page_stride_bytes", p.num_pages, p.page_stride_bytes);
  checks.num_sms(p.num_sms);
  return checks.status();
}

Status check_arguments(PagedIndexerLogitsParams const& p, char const* op) noexcept {
  Checks checks(op);
  checks.extent("batch", p.batch);
  checks.extent("next_n", p.next_n);
  if (checks.status().ok()) checks.extent("batch * next_n", p.batch * p.next_n);
  checks.extent("num_pages", p.num_pages);
  checks.extent("pages_per_request", p.pages_per_request);
  checks.extent("max_context_len", p.max_context_len);
  checks.heads(p.num_heads);
  checks.aligned("q", p.q);
  checks.stride("q_batch_stride", p.batch, p.q_batch_stride);
  checks.stride("q_token_stride", p.next_n, p.q_token_stride);
  checks.stride("q_head_stride", p.num_heads, p.q_head_stride);
  checks.aligned("index_cache", p.index_cache);
  checks.stride("page_stride_bytes", p.num_pages, p.page_stride_bytes);
  checks.num_sms(p.num_sms);
  return checks.status();
}

}  // namespace dsa_ops::indexer
