// A fused call: for each group of rows a sample, gates, scans with their selections, and what those
// leave over. See README.md.
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <vector>

#include "kernels/indexer/plan.h"
#include "kernels/indexer/tensor_map.h"
#include "kernels/rounding.h"
#include "kernels/topk/fused/debug.h"
#include "kernels/topk/fused/launcher.h"
#include "kernels/topk/kernel_args.h"

namespace dsa_ops {
namespace topk_sm90::fused {
namespace {

constexpr char kOp[] = "indexer_topk";
std::atomic<int32_t> list_limit{0};

class Call {
 public:
  Call(IndexerTopkParams const& params, FusedPlan const& plan, cudaStream_t stream)
      : scoring_(params.scoring),
        plan_(plan),
        stream_(stream),
        memory_(static_cast<uint8_t*>(params.workspace)),
        topk_(selection_args(params)) {}

  Status run() {
    Status status = encode_keys(&keys_, scoring_.num_keys, scoring_.k_stride);
    if (status.ok()) {
      status = encode_keys(&sampled_keys_, plan_.samples, scoring_.k_stride * kSampleStride);
    }
    int32_t const rows = static_cast<int32_t>(scoring_.num_rows);
    for (int32_t first = 0; status.ok() && first < rows; first += plan_.group_rows) {
      status = run_group(first, std::min(plan_.group_rows, rows - first));
    }
    return status;
  }

 private:
  static KernelArgs selection_args(IndexerTopkParams const& params) {
    TopkParams selection = params.selection;
    selection.row_starts = params.scoring.row_starts;
    selection.row_ends = params.scoring.row_ends;
    selection.num_rows = params.scoring.num_rows;
    selection.num_columns = params.scoring.num_keys;
    selection.row_offsets = nullptr;
    int64_t const words = round_up(selection.num_columns, 1024) / 32;
    return kernel_args(selection, {}, 0,
                       static_cast<int32_t>(std::min<int64_t>(words, kMaxWindowWords)));
  }

  template <class T>
  T* at(int64_t offset) const {
    return reinterpret_cast<T*>(memory_ + offset);
  }

  Status encode_keys(CUtensorMap* map, int64_t keys, int64_t stride) const {
    indexer::TensorMapDim const dims[] = {{indexer::kHeadDim, 0, indexer::kHeadDim},
                                          {keys, stride, indexer::kStageKeys}};
    return indexer::encode_tensor_map(map, scoring_.k, dims, 2, kOp);
  }

  // What is common to all that score: rows [first, first + rows) of the call.
  Status fill_ragged(indexer::RaggedArgs* args, CUtensorMap const& keys, int32_t first,
                     int32_t rows) const {
    args->key_map = keys;
    args->k_scale = scoring_.k_scale;
    args->weights = scoring_.weights + first * scoring_.weights_row_stride;
    args->weights_row_stride = scoring_.weights_row_stride;
    args->row_starts = scoring_.row_starts + first;
    args->row_ends = scoring_.row_ends + first;
    args->logits = at<float>(plan_.lists);
    args->logits_row_stride = plan_.logits_stride;
    args->num_rows = rows;
    args->num_keys = static_cast<int32_t>(scoring_.num_keys);
    args->unscored_length = topk_.top_k;
    indexer::TensorMapDim const queries[] = {
        {indexer::kHeadDim, 0, indexer::kHeadDim},
        {scoring_.num_heads, scoring_.q_head_stride, scoring_.num_heads},
        {rows, scoring_.q_row_stride, kTileRows}};
    return indexer::encode_tensor_map(
        &args->query_map, static_cast<uint8_t const*>(scoring_.q) + first * scoring_.q_row_stride,
        queries, 3, kOp);
  }

  WorkArgs work() const {
    return WorkArgs{at<ScanWork>(plan_.work), at<int32_t>(plan_.tile_begins),
                    at<int32_t>(plan_.first_tiles), plan_.scan_rows / kTileRows, plan_.grid};
  }
  RedoArgs redo() const {
    return RedoArgs{at<int32_t>(plan_.redo_count), at<int32_t>(plan_.redo_tiles),
                    at<int32_t>(plan_.redo_rows)};
  }

  Status run_group(int32_t first, int32_t rows) {
    Status status = sample(first, rows);
    if (status.ok()) status = find_gates(first, rows);
    for (int32_t scan = 0; status.ok() && scan * plan_.scan_rows < rows; ++scan) {
      int32_t const begin = scan * plan_.scan_rows;
      status = run_scan(first, scan, begin, std::min(plan_.scan_rows, rows - begin));
    }
    if (!status.ok()) return status;
    RescoreArgs args{};
    status = fill_ragged(&args, keys_, first, rows);
    if (!status.ok()) return status;
    args.topk = topk_;
    args.redo = redo();
    args.first_row = first;
    return launch_rescore(args, plan_.rescore_clusters, stream_, kOp);
  }

  Status sample(int32_t first, int32_t rows) {
    SampleArgs args{};
    Status const status = fill_ragged(&args, sampled_keys_, first, rows);
    if (!status.ok()) return status;
    args.logits_row_stride = plan_.sample_stride;
    args.num_keys = plan_.samples;
    args.row_keys = static_cast<int32_t>(scoring_.num_keys);
    indexer::RaggedPlan const shares =
        indexer::plan_ragged(rows, plan_.samples, scoring_.num_heads, plan_.grid);
    args.row_tiles = shares.row_tiles;
    args.key_tiles = shares.key_tiles;
    args.pieces = shares.pieces;
    return launch_sample(args, {shares.grid, first > 0 || scoring_.pdl}, stream_, kOp);
  }

  Status find_gates(int32_t first, int32_t rows) {
    GateArgs args{};
    Status const status = fill_ragged(&args.ranges, keys_, first, rows);
    if (!status.ok()) return status;
    args.work = work();
    args.redo = redo();
    args.gates = at<RowGate>(plan_.gates);
    args.samples = at<float>(plan_.lists);
    args.samples_row_stride = plan_.sample_stride;
    args.num_scans = (rows + plan_.scan_rows - 1) / plan_.scan_rows;
    args.top_k = topk_.top_k;
    return launch_gates(args, rows, stream_, kOp);
  }

  // Rows [begin, begin + rows) of the group that begins at row `first`.
  Status run_scan(int32_t first, int32_t scan, int32_t begin, int32_t rows) {
    ScanArgs args{};
    Status status = fill_ragged(&args, keys_, first + begin, rows);
    if (!status.ok()) return status;
    WorkArgs const shares = work();
    args.gates = at<RowGate>(plan_.gates) + begin;
    args.work = shares.work + scan;
    args.tile_begins = shares.tile_begins + scan * (shares.scan_tiles + 1);
    args.first_tiles = shares.first_tiles + scan * shares.grid;
    args.lists = at<uint8_t>(plan_.lists);
    args.counts = at<uint16_t>(plan_.counts);
    args.capacity = plan_.list_capacity;
    status = launch_scan(args, plan_.grid, stream_, kOp);
    if (!status.ok()) return status;

    SelectArgs select{};
    select.topk = topk_;
    select.gates = args.gates;
    select.lists = at<Candidate>(plan_.lists);
    select.counts = args.counts;
    select.redo = redo();
    select.first_row = first + begin;
    select.first_tile_row = begin;
    select.list_capacity = plan_.list_capacity;
    return launch_select(select, rows, stream_, kOp);
  }

  IndexerLogitsParams const& scoring_;
  FusedPlan const& plan_;
  cudaStream_t const stream_;
  uint8_t* const memory_;
  KernelArgs const topk_;
  CUtensorMap keys_;
  CUtensorMap sampled_keys_;
};

}  // namespace

Status fused_topk(IndexerTopkParams const& params, FusedPlan const& plan,
                  cudaStream_t stream) noexcept {
  FusedPlan limited = plan;
  if (int32_t const limit = list_limit.load(); limit > 0) {
    limited.list_capacity = std::min(limit, plan.list_capacity);
  }
  return Call(params, limited, stream).run();
}

}  // namespace topk_sm90::fused

inline namespace v0 {
namespace detail {

void limit_candidate_lists(int32_t candidates) noexcept {
  topk_sm90::fused::list_limit.store(candidates);
}

}  // namespace detail
}  // namespace v0

KernelList fused_topk_kernels() {
  static std::vector<KernelEntry> const kEntries = [] {
    std::vector<KernelEntry> entries;
    for (KernelList const list :
         {topk_sm90::fused::scoring_kernels(), topk_sm90::fused::selection_kernels()}) {
      entries.insert(entries.end(), list.entries, list.entries + list.count);
    }
    return entries;
  }();
  return KernelList{kEntries.data(), static_cast<int>(kEntries.size())};
}

}  // namespace dsa_ops
