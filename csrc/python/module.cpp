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

namespace {

py::dict build_info() {
  py::dict info;
  info["version"] = dsa_ops::version();
  info["cuda"] = dsa_ops::cuda_version();
  info["architecture"] = "sm_90a";
  return info;
}

py::list kernel_table() {
  py::list table;
  for (int32_t i = 0; i < dsa_ops::kernel_count(); ++i) {
    dsa_ops::KernelInfo const info = dsa_ops::kernel_info(i);
    py::dict row;
    row["name"] = info.name;
    row["op"] = info.op;
    row["tile"] = info.tile;
    row["threads"] = info.threads;
    row["shared_memory_bytes"] = info.shared_memory_bytes;
    row["max_registers"] = info.max_registers;
    table.append(row);
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
  py::dict result;
  result["grid"] = plan.grid;
  result["row_tiles"] = plan.row_tiles;
  result["key_tiles"] = plan.key_tiles;
  result["pieces"] = plan.pieces;
  return result;
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
  py::dict result;
  result["grid"] = plan.grid;
  result["tile_rows"] = plan.tile_rows;
  result["tiles_per_request"] = plan.tiles_per_request;
  result["row_tiles"] = plan.row_tiles;
  return result;
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
  py::dict result;
  result["selector"] = selector_name(plan.selector);
  result["cluster_size"] = plan.cluster_size;
  result["block_threads"] = plan.block_threads;
  result["thread_keys"] = plan.thread_keys;
  result["capacity"] = plan.capacity;
  result["shared_bytes"] = plan.shared_bytes;
  result["num_blocks"] = plan.num_blocks;
  return result;
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
  py::dict result;
  result["group_rows"] = plan.group_rows;
  result["scan_rows"] = plan.scan_rows;
  result["num_scans"] = plan.num_scans;
  result["list_capacity"] = plan.list_capacity;
  result["rescore_clusters"] = plan.rescore_clusters;
  result["workspace_bytes"] = plan.workspace_bytes;
  return result;
}

py::dict plan_sparse_mla_decode(int64_t num_rows, int32_t num_heads, int64_t top_k,
                                int32_t num_sms) {
  require_positive(
      "plan_sparse_mla_decode",
      {{"num_rows", num_rows}, {"num_heads", num_heads}, {"top_k", top_k}, {"num_sms", num_sms}});
  auto const plan = dsa_ops::sparse_mla::plan_fp8(num_rows, num_heads, top_k, num_sms);
  py::dict result;
  result["tile_heads"] = plan.tile_heads;
  result["head_tiles"] = plan.head_tiles;
  result["num_splits"] = plan.num_splits;
  result["blocks_per_split"] = plan.blocks_per_split;
  result["through_scratch"] = plan.through_scratch;
  return result;
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
  module.def("plan_indexer_logits", &plan_indexer_logits, py::arg("num_rows"), py::arg("num_keys"),
             py::arg("num_heads"), py::arg("num_sms"));
  module.def("plan_paged_indexer_logits", &plan_paged_indexer_logits, py::arg("batch"),
             py::arg("next_n"), py::arg("num_heads"), py::arg("max_context_len"),
             py::arg("num_sms"));
  module.def("plan_topk", &plan_topk, py::arg("num_rows"), py::arg("num_columns"), py::arg("top_k"),
             py::arg("num_sms"), py::arg("aligned_rows") = true, py::arg("from_zero") = true);
  module.def("plan_indexer_topk", &plan_indexer_topk, py::arg("num_rows"), py::arg("num_keys"),
             py::arg("num_heads"), py::arg("top_k"), py::arg("num_sms"));
  module.def("plan_sparse_mla_decode", &plan_sparse_mla_decode, py::arg("num_rows"),
             py::arg("num_heads"), py::arg("top_k"), py::arg("num_sms"));
  module.def("indexer_topk_workspace_bytes", &dsa_ops::indexer_topk_workspace_bytes,
             py::arg("num_rows"), py::arg("num_keys"));
  module.def("paged_indexer_topk_workspace_bytes", &dsa_ops::paged_indexer_topk_workspace_bytes,
             py::arg("num_rows"), py::arg("max_context_len"));
  module.def("sparse_mla_prefill_workspace_bytes", &dsa_ops::sparse_mla_prefill_workspace_bytes,
             py::arg("num_rows"), py::arg("num_heads"), py::arg("top_k"), py::arg("num_sms"));
  module.def("sparse_mla_decode_workspace_bytes", &dsa_ops::sparse_mla_decode_workspace_bytes,
             py::arg("num_rows"), py::arg("num_heads"), py::arg("top_k"), py::arg("num_sms"));
}
