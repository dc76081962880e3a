// dsa_ops._C: what this build holds, for `python -m dsa_ops info` and for tests without a GPU.
#include <pybind11/pybind11.h>

#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <utility>

#include "dsa_ops/build_info.h"
#include "dsa_ops/sparse_mla.h"
#include "dsa_ops/topk.h"
#include "kernels/indexer/plan.h"
#include "kernels/sparse_mla/plan.h"
#include "kernels/topk/fused/plan.h"
#include "kernels/topk/plan.h"

namespace py = pybind11;
using namespace py::literals;

namespace {

py::dict build_info() {
  return py::dict("version"_a = dsa_ops::version(), "cuda"_a = dsa_ops::cuda_version(),
                  "architecture"_a = "sm_90a");
}

py::list kernel_table() {
  py::list table;
  for (int32_t i = 0; i < dsa_ops::kernel_count(); ++i) {
    dsa_ops::KernelInfo const info = dsa_ops::kernel_info(i);
    table.append(py::dict("name"_a = info.name, "op"_a = info.op, "tile"_a = info.tile,
                          "threads"_a = info.threads,
                          "shared_memory_bytes"_a = info.shared_memory_bytes,
                          "max_registers"_a = info.max_registers));
  }
  return table;
}

// The planners take sizes that the entry points have checked.
void require_positive(char const* planner,
                      std::initializer_list<std::pair<char const*, int64_t>> sizes) {
  for (auto const& [name, size] : sizes) {
    if (size >= 1) continue;
    throw std::invalid_argument(std::string(planner) + ": " + name + " must be at least 1, got " +
                                std::to_string(size));
  }
}

py::dict plan_indexer_logits(int32_t num_rows, int32_t num_keys, int32_t num_heads,
                             int32_t num_sms) {
  require_positive("plan_indexer_logits", {{"num_rows", num_rows},
                                           {"num_keys", num_keys},
                                           {"num_heads", num_heads},
                                           {"num_sms", num_sms}});
  auto const plan = dsa_ops::indexer::plan_ragged(num_rows, num_keys, num_heads, num_sms);
  return py::dict("grid"_a = plan.grid, "row_tiles"_a = plan.row_tiles,
                  "key_tiles"_a = plan.key_tiles, "pieces"_a = plan.pieces);
}

py::dict plan_paged_indexer_logits(int32_t batch, int32_t next_n, int32_t num_heads,
                                   int32_t max_context_len, int32_t num_sms) {
  require_positive("plan_paged_indexer_logits", {{"batch", batch},
                                                 {"next_n", next_n},
                                                 {"num_heads", num_heads},
                                                 {"max_context_len", max_context_len},
                                                 {"num_sms", num_sms}});
  auto const plan =
      dsa_ops::indexer::plan_paged(batch, next_n, num_heads, max_context_len, num_sms, false);
  return py::dict("grid"_a = plan.grid, "tile_rows"_a = plan.tile_rows,
                  "tiles_per_request"_a = plan.tiles_per_request, "row_tiles"_a = plan.row_tiles);
}

char const* selector_name(dsa_ops::topk_sm90::Selector selector) {
  using dsa_ops::topk_sm90::Selector;
  switch (selector) {
    case Selector::kBinned: return "binned";
    case Selector::kResident: return "resident";
    case Selector::kStaged: return "staged";
    default: return "gated";
  }
}

py::dict plan_topk(int64_t num_rows, int64_t num_columns, int32_t top_k, int32_t num_sms,
                   bool aligned_rows, bool from_zero) {
  require_positive("plan_topk", {{"top_k", top_k}, {"num_sms", num_sms}});
  using dsa_ops::topk_sm90::RowStarts;
  RowStarts const starts = !aligned_rows ? RowStarts::kAnywhere
                           : from_zero   ? RowStarts::kAligned
                                         : RowStarts::kAlignedRows;
  auto const plan = dsa_ops::topk_sm90::plan_topk(num_rows, num_columns, top_k, starts, num_sms);
  return py::dict("selector"_a = selector_name(plan.selector), "cluster_size"_a = plan.cluster_size,
                  "block_threads"_a = plan.block_threads, "thread_keys"_a = plan.thread_keys,
                  "capacity"_a = plan.capacity, "shared_bytes"_a = plan.shared_bytes,
                  "num_blocks"_a = plan.num_blocks);
}

py::dict plan_indexer_topk(int64_t num_rows, int64_t num_keys, int32_t num_heads, int32_t top_k,
                           int32_t num_sms) {
  require_positive("plan_indexer_topk", {{"num_rows", num_rows},
                                         {"num_keys", num_keys},
                                         {"num_heads", num_heads},
                                         {"top_k", top_k},
                                         {"num_sms", num_sms}});
  auto const plan =
      dsa_ops::topk_sm90::fused::plan_fused(num_rows, num_keys, num_heads, top_k, num_sms);
  return py::dict("group_rows"_a = plan.group_rows, "scan_rows"_a = plan.scan_rows,
                  "num_scans"_a = plan.num_scans, "list_capacity"_a = plan.list_capacity,
                  "rescore_clusters"_a = plan.rescore_clusters,
                  "workspace_bytes"_a = plan.workspace_bytes);
}

py::dict plan_sparse_mla_decode(int64_t num_rows, int32_t num_heads, int64_t top_k,
                                int32_t num_sms) {
  require_positive(
      "plan_sparse_mla_decode",
      {{"num_rows", num_rows}, {"num_heads", num_heads}, {"top_k", top_k}, {"num_sms", num_sms}});
  auto const plan = dsa_ops::sparse_mla::plan_fp8(num_rows, num_heads, top_k, num_sms);
  return py::dict("tile_heads"_a = plan.tile_heads, "head_tiles"_a = plan.head_tiles,
                  "num_splits"_a = plan.num_splits, "blocks_per_split"_a = plan.blocks_per_split,
                  "through_scratch"_a = plan.through_scratch);
}

void preload() {
  dsa_ops::Status const status = dsa_ops::preload();
  if (!status.ok()) throw std::runtime_error(status.message);
}

}  // namespace

PYBIND11_MODULE(_C, module) {
  module.doc() =
      "Build information, the table of compiled kernels, launch plans and workspace sizes.";
  module.def("build_info", &build_info, "The version, and what it was compiled with and for.");
  module.def("kernel_table", &kernel_table, "One entry per compiled kernel.");
  module.def("preload", &preload, py::call_guard<py::gil_scoped_release>(),
             "Loads every kernel on the current CUDA device, before a graph capture.");
  module.def("plan_indexer_logits", &plan_indexer_logits, "num_rows"_a, "num_keys"_a, "num_heads"_a,
             "num_sms"_a);
  module.def("plan_paged_indexer_logits", &plan_paged_indexer_logits, "batch"_a, "next_n"_a,
             "num_heads"_a, "max_context_len"_a, "num_sms"_a);
  module.def("plan_topk", &plan_topk, "num_rows"_a, "num_columns"_a, "top_k"_a, "num_sms"_a,
             "aligned_rows"_a = true, "from_zero"_a = true);
  module.def("plan_indexer_topk", &plan_indexer_topk, "num_rows"_a, "num_keys"_a, "num_heads"_a,
             "top_k"_a, "num_sms"_a);
  module.def("plan_sparse_mla_decode", &plan_sparse_mla_decode, "num_rows"_a, "num_heads"_a,
             "top_k"_a, "num_sms"_a);
  module.def("indexer_topk_workspace_bytes", &dsa_ops::indexer_topk_workspace_bytes, "num_rows"_a,
             "num_keys"_a);
  module.def("paged_indexer_topk_workspace_bytes", &dsa_ops::paged_indexer_topk_workspace_bytes,
             "num_rows"_a, "max_context_len"_a);
  module.def("sparse_mla_prefill_workspace_bytes", &dsa_ops::sparse_mla_prefill_workspace_bytes,
             "num_rows"_a, "num_heads"_a, "top_k"_a, "num_sms"_a);
  module.def("sparse_mla_decode_workspace_bytes", &dsa_ops::sparse_mla_decode_workspace_bytes,
             "num_rows"_a, "num_heads"_a, "top_k"_a, "num_sms"_a);
}
