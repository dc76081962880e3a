// The indexer with a selection behind it: fused where that is faster, else chunks of rows whose
// logits fit the workspace. Logits never exist in full.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "dsa_ops/topk.h"
#include "kernels/indexer/checks.h"
#include "kernels/indexer/launchers.h"
#include "kernels/launch.h"
#include "kernels/rounding.h"
#include "kernels/topk/fused/launcher.h"
#include "kernels/topk/launcher.h"
#include "kernels/topk/listed/launcher.h"
#include "kernels/topk/listed/plan.h"
#include "kernels/topk/owned/launcher.h"
#include "kernels/topk/row_lengths.h"

namespace dsa_ops {
namespace {

constexpr int64_t kLogitsBytes = topk_sm90::fused::kFusedBytes;
constexpr int64_t kAlignment = 256;

// Elements between the rows of the workspace's logits. More columns than 32 bits count are none
// that a call takes, but may be asked for.
int64_t row_stride(int64_t columns) {
  constexpr int64_t kMaxColumns = std::numeric_limits<int32_t>::max();
  return round_up(std::clamp<int64_t>(columns, 1, kMaxColumns), kAlignment / sizeof(float));
}

int64_t rows_per_chunk(int64_t columns) {
  return std::max<int64_t>(kLogitsBytes / (row_stride(columns) * sizeof(float)), 1);
}

int64_t logits_bytes(int64_t rows, int64_t columns) {
  return std::min(rows, rows_per_chunk(columns)) * row_stride(columns) * sizeof(float);
}

int64_t lengths_bytes(int64_t rows) { return round_up(rows * sizeof(int32_t), kAlignment); }

Status check_selection(TopkParams const& selection, char const* op) {
  if (selection.top_k < 1 || selection.top_k > kMaxTopk) {
    return make_status(StatusCode::kInvalidArgument, "%s: top_k must be between 1 and %d, got %d",
                       op, kMaxTopk, selection.top_k);
  }
  return Status{};
}

// Rows [first, first + rows): whole requests from `request` on, or, where requests have more rows
// than a chunk takes, a part of one that begins at its row `token`. Either way the default mapping
// of rows to requests holds within the chunk.
struct Chunk {
  int64_t first;
  int64_t rows;
  int64_t request;
  int64_t token;
  int64_t requests;
};

template <class Body>
Status for_each_chunk(int64_t num_rows, int64_t rows_per_request, int64_t max_rows,
                      Body const& body) {
  Status status;
  bool const whole = rows_per_request <= max_rows;
  int64_t const whole_rows = max_rows / rows_per_request * rows_per_request;
  for (int64_t first = 0; status.ok() && first < num_rows;) {
    Chunk chunk{first, 0, first / rows_per_request, first % rows_per_request, 1};
    chunk.rows = whole ? std::min(whole_rows, num_rows - first)
                       : std::min(max_rows, rows_per_request - chunk.token);
    if (whole) chunk.requests = chunk.rows / rows_per_request;
    status = body(chunk);
    first += chunk.rows;
  }
  return status;
}

TopkParams select_chunk(TopkParams const& selection, Chunk const& chunk, float const* logits,
                        int64_t columns) {
  TopkParams part = selection;
  part.logits = logits;
  part.logits_type = LogitsType::kFloat32;
  part.logits_row_stride = row_stride(columns);
  part.indices += chunk.first * selection.indices_row_stride;
  part.row_offsets = nullptr;
  part.num_rows = chunk.rows;
  part.num_columns = columns;
  return part;
}

// The chunk's rows of a paged call. `lengths` are those of all rows, or null where a chunk is whole
// requests, whose lengths are read where they are.
PagedIndexerLogitsParams score_chunk(PagedIndexerLogitsParams const& scoring, Chunk const& chunk,
                                     int32_t const* lengths, float* logits) {
  PagedIndexerLogitsParams part = scoring;
  part.q = static_cast<uint8_t const*>(scoring.q) + chunk.request * scoring.q_batch_stride +
           chunk.token * scoring.q_token_stride;
  part.weights += chunk.first * scoring.weights_row_stride;
  if (lengths != nullptr) {
    part.context_lens = lengths + chunk.first;
    part.next_n = chunk.rows;
    part.context_lens_stride = part.next_n;
    part.context_lens_per_token = true;
  } else {
    part.context_lens += chunk.request * scoring.context_lens_stride;
  }
  part.block_table += chunk.request * scoring.block_table_stride;
  part.batch = chunk.requests;
  part.logits = logits;
  part.logits_row_stride = row_stride(scoring.max_context_len);
  // Only the first kernel of all may overlap what comes before: the logits are written anew.
  part.pdl = scoring.pdl && chunk.first == 0 && lengths == nullptr;
  return part;
}

// The block-table rows of the chunk's requests.
void select_requests(TopkParams* part, Chunk const& chunk) {
  if (!part->to_slots) return;
  part->block_table += chunk.request * part->block_table_stride;
  part->num_requests = chunk.requests;
}

// Chunk by chunk.
Status chunked_topk(IndexerTopkParams const& p, int64_t rows_per_request, cudaStream_t stream) {
  IndexerLogitsParams const& scoring = p.scoring;
  bool const maps_by_position = p.selection.to_slots && p.selection.row_to_request == nullptr;
  float* logits = static_cast<float*>(p.workspace);
  return for_each_chunk(
      scoring.num_rows, rows_per_request, rows_per_chunk(scoring.num_keys),
      [&](Chunk const& chunk) {
        IndexerLogitsParams score = scoring;
        score.q = static_cast<uint8_t const*>(scoring.q) + chunk.first * scoring.q_row_stride;
        score.weights += chunk.first * scoring.weights_row_stride;
        score.row_starts += chunk.first;
        score.row_ends += chunk.first;
        score.logits = logits;
        score.logits_row_stride = row_stride(scoring.num_keys);
        score.num_rows = chunk.rows;
        score.clean = false;
        score.pdl = scoring.pdl && chunk.first == 0;
        Status const scored = indexer::score_rows(score, p.selection.top_k, stream, "indexer_topk");
        if (!scored.ok()) return scored;

        TopkParams select = select_chunk(p.selection, chunk, logits, scoring.num_keys);
        select.row_starts = score.row_starts;
        select.row_ends = score.row_ends;
        if (maps_by_position) {
          select_requests(&select, chunk);
        } else if (select.row_to_request != nullptr) {
          select.row_to_request += chunk.first;
        }
        return topk(select, stream);
      });
}

}  // namespace

inline namespace v0 {

size_t indexer_topk_workspace_bytes(int64_t num_rows, int64_t num_keys) noexcept {
  if (num_rows <= 0) return 0;
  int64_t const bytes = logits_bytes(num_rows, num_keys);
  bool const fuses = topk_sm90::fused::may_fuse(num_rows, num_keys);
  return static_cast<size_t>(fuses ? std::max(bytes, topk_sm90::fused::kFusedBytes) : bytes);
}

Status indexer_topk(IndexerTopkParams const& p, cudaStream_t stream) noexcept {
  constexpr char const* kOp = "indexer_topk";
  IndexerLogitsParams const& scoring = p.scoring;
  Status status = indexer::check_arguments(scoring, kOp);
  if (status.ok()) status = check_selection(p.selection, kOp);
  if (!status.ok() || scoring.num_rows == 0) return status;
  status = check_workspace(p.workspace, p.workspace_bytes,
                           indexer_topk_workspace_bytes(scoring.num_rows, scoring.num_keys), kOp);
  if (!status.ok()) return status;

  bool const maps_by_position = p.selection.to_slots && p.selection.row_to_request == nullptr;
  int64_t const requests = p.selection.num_requests;
  if (maps_by_position && (requests <= 0 || scoring.num_rows % requests != 0)) {
    return make_status(StatusCode::kInvalidArgument,
                       "%s: num_requests must divide %lld rows, got %lld", kOp,
                       static_cast<long long>(scoring.num_rows), static_cast<long long>(requests));
  }
  DeviceProperties device;
  status = current_device(&device, kOp);
  if (!status.ok()) return status;
  int32_t const num_sms =
      scoring.num_sms == 0 ? device.num_sms : std::min(device.num_sms, scoring.num_sms);
  topk_sm90::fused::FusedPlan const fused = topk_sm90::fused::plan_fused(
      scoring.num_rows, scoring.num_keys, scoring.num_heads, p.selection.top_k, num_sms);
  if (fused.scan_rows > 0) return topk_sm90::fused::fused_topk(p, fused, stream);
  return chunked_topk(p, maps_by_position ? scoring.num_rows / requests : 1, stream);
}

size_t paged_indexer_topk_workspace_bytes(int64_t num_rows, int64_t max_context_len) noexcept {
  if (num_rows <= 0) return 0;
  int64_t const listed_rows = std::min(num_rows, rows_per_chunk(max_context_len));
  return static_cast<size_t>(lengths_bytes(num_rows) + logits_bytes(num_rows, max_context_len) +
                             topk_sm90::listed::workspace_bytes(listed_rows, max_context_len));
}

Status paged_indexer_topk(PagedIndexerTopkParams const& p, cudaStream_t stream) noexcept {
  constexpr char const* kOp = "paged_indexer_topk";
  PagedIndexerLogitsParams const& scoring = p.scoring;
  Status status = indexer::check_arguments(scoring, kOp);
  if (status.ok()) status = check_selection(p.selection, kOp);
  int64_t const num_rows = scoring.batch * scoring.next_n;
  if (!status.ok() || num_rows == 0) return status;
  int64_t const columns = scoring.max_context_len;
  status = check_workspace(p.workspace, p.workspace_bytes,
                           paged_indexer_topk_workspace_bytes(num_rows, columns), kOp);
  DeviceProperties device;
  if (status.ok()) status = current_device(&device, kOp);
  if (!status.ok()) return status;

  int32_t* lengths = static_cast<int32_t*>(p.workspace);
  float* logits =
      reinterpret_cast<float*>(static_cast<uint8_t*>(p.workspace) + lengths_bytes(num_rows));
  uint8_t* lists = reinterpret_cast<uint8_t*>(logits) + logits_bytes(num_rows, columns);
  // Lengths of whole requests are read where they are. A part of a request has its own in an array.
  bool const splits = scoring.next_n > rows_per_chunk(columns);
  if (splits) {
    status = topk_detail::write_row_lengths(indexer::row_lengths_of(scoring),
                                            static_cast<int32_t>(num_rows), lengths, stream, kOp);
    if (!status.ok()) return status;
  }
  int64_t const max_rows = rows_per_chunk(columns);
  bool const listed =
      scoring.num_sms == 0 && topk_sm90::listed::lists_candidates(
                                  std::min(num_rows, max_rows), scoring.next_n, scoring.num_heads,
                                  columns, p.selection.top_k, device.num_sms);
  bool const owned = scoring.num_sms == 0 &&
                     topk_sm90::owned::owns_rows(num_rows, scoring.next_n, columns, device.num_sms);
  return for_each_chunk(num_rows, scoring.next_n, max_rows, [&](Chunk const& chunk) {
    PagedIndexerLogitsParams const score =
        score_chunk(scoring, chunk, splits ? lengths : nullptr, logits);
    TopkParams select = select_chunk(p.selection, chunk, logits, columns);
    select.row_to_request = nullptr;
    select.pdl = true;
    select_requests(&select, chunk);
    if (owned) return topk_sm90::owned::owned_topk(score, select, stream, kOp);
    if (listed) {
      return topk_sm90::listed::listed_topk(score, select, lists, stream, kOp);
    }
    Status const scored = indexer::score_pages(score, select.top_k, stream, kOp);
    if (!scored.ok()) return scored;
    return topk_sm90::topk_of_lengths(select, indexer::row_lengths_of(score), stream);
  });
}

}  // namespace v0
}  // namespace dsa_ops
