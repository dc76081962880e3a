// dsa_ops._C: what this build holds, for `python -m dsa_ops info` and for tests without a GPU.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <vector>

#include "dsa_ops/build_info.h"
#include "dsa_ops/sparse_mla.h"
#include "dsa_ops/topk.h"

namespace py = pybind11;

namespace {

std::vector<dsa_ops::KernelInfo> kernels() {
  std::vector<dsa_ops::KernelInfo> table;
  for (int32_t i = 0; i < dsa_ops::kernel_count(); ++i) table.push_back(dsa_ops::kernel_info(i));
  return table;
}

void preload() {
  dsa_ops::Status const status = dsa_ops::preload();
  if (!status.ok()) throw std::runtime_error(status.message);
}

}  // namespace

PYBIND11_MODULE(_C, module) {
  module.doc() = "Build information, the table of compiled kernels and workspace sizes.";
  py::class_<dsa_ops::KernelInfo>(module, "KernelInfo", "One compiled kernel.")
      .def_readonly("name", &dsa_ops::KernelInfo::name)
      .def_readonly("op", &dsa_ops::KernelInfo::op)
      .def_readonly("tile", &dsa_ops::KernelInfo::tile)
      .def_readonly("threads", &dsa_ops::KernelInfo::threads)
      .def_readonly("shared_memory_bytes", &dsa_ops::KernelInfo::shared_memory_bytes)
      .def_readonly("max_registers", &dsa_ops::KernelInfo::max_registers);
  module.def("version", &dsa_ops::version, "The library's version.");
  module.def("cuda_version", &dsa_ops::cuda_version, "The compiler's CUDA version.");
  module.def("kernels", &kernels, "Every compiled kernel.");
  module.def("preload", &preload, py::call_guard<py::gil_scoped_release>(),
             "Loads every kernel on the current CUDA device, before a graph capture.");
  module.def("indexer_topk_workspace_bytes", &dsa_ops::indexer_topk_workspace_bytes,
             py::arg("num_rows"), py::arg("num_keys"));
  module.def("paged_indexer_topk_workspace_bytes", &dsa_ops::paged_indexer_topk_workspace_bytes,
             py::arg("num_rows"), py::arg("max_context_len"));
  module.def("sparse_mla_decode_workspace_bytes", &dsa_ops::sparse_mla_decode_workspace_bytes,
             py::arg("num_rows"), py::arg("num_heads"), py::arg("top_k"), py::arg("num_sms"));
}
