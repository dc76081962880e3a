// dsa_ops._C: what this build holds, for `python -m dsa_ops info` and for tests without a GPU.
#include <pybind11/pybind11.h>

#include <stdexcept>

#include "dsa_ops/build_info.h"
#include "dsa_ops/sparse_mla.h"
#include "dsa_ops/topk.h"
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

py::dict topk_plan(int64_t num_rows, int64_t num_columns, int32_t top_k, int32_t num_sms) {
  using namespace dsa_ops::topk_sm90;
  TopkPlan const plan = plan_topk(num_rows, num_columns, top_k, num_sms);
  py::dict row;
  row["selector"] = plan.selector == Selector::kResident ? "resident" : "gated";
  row["cluster_size"] = plan.cluster_size;
  row["capacity"] = plan.capacity;
  row["shared_bytes"] = plan.shared_bytes;
  row["num_blocks"] = plan.num_blocks;
  return row;
}

void preload() {
  dsa_ops::Status const status = dsa_ops::preload();
  if (!status.ok()) throw std::runtime_error(status.message);
}

}  // namespace

PYBIND11_MODULE(_C, module) {
  module.doc() = "Build information, the kernel table, workspace sizes, the top-k plan.";
  module.def("build_info", &build_info, "The version, and what it was compiled with and for.");
  module.def("kernel_table", &kernel_table, "One entry per compiled kernel.");
  module.def("preload", &preload, py::call_guard<py::gil_scoped_release>(),
             "Loads every kernel on the current CUDA device, before a graph capture.");
  module.def("indexer_topk_workspace_bytes", &dsa_ops::indexer_topk_workspace_bytes,
             py::arg("num_rows"), py::arg("num_keys"));
  module.def("paged_indexer_topk_workspace_bytes", &dsa_ops::paged_indexer_topk_workspace_bytes,
             py::arg("num_rows"), py::arg("max_context_len"));
  module.def("sparse_mla_decode_workspace_bytes", &dsa_ops::sparse_mla_decode_workspace_bytes,
             py::arg("num_rows"), py::arg("num_heads"), py::arg("top_k"), py::arg("num_sms"));
  module.def("topk_plan", &topk_plan, "How a top-k launch of these sizes is shaped.",
             py::arg("num_rows"), py::arg("num_columns"), py::arg("top_k"), py::arg("num_sms"));
}
