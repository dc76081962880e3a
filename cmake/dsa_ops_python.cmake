# _C: build information, the kernel table, launch plans and workspace sizes. Nothing that must
# import needs it, so a missing pybind11 or missing Python headers leave it out.

if(Python_Interpreter_FOUND AND NOT pybind11_DIR)
  execute_process(
    COMMAND "${Python_EXECUTABLE}" -m pybind11 --cmakedir
    OUTPUT_VARIABLE pybind11_DIR OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
endif()
set(PYBIND11_FINDPYTHON ON)
find_package(pybind11 CONFIG)

if(Python_Development.Module_FOUND AND pybind11_FOUND)
  # The plans are no part of the library's interface, so the module compiles its own copy.
  set(csrc "${CMAKE_CURRENT_SOURCE_DIR}/csrc")
  pybind11_add_module(_C NO_EXTRAS "${csrc}/python/module.cpp"
    "${csrc}/kernels/indexer/plan.cpp" "${csrc}/kernels/sparse_mla/plan.cpp"
    "${csrc}/kernels/topk/fused/plan.cpp" "${csrc}/kernels/topk/plan.cpp")
  target_include_directories(_C PRIVATE "${csrc}")
  dsa_ops_compile_options(_C)
  target_link_libraries(_C PRIVATE dsa_ops)
  set_target_properties(_C PROPERTIES INSTALL_RPATH "$ORIGIN/lib" BUILD_WITH_INSTALL_RPATH ON)
else()
  message(STATUS "dsa_ops: _C is left out (Python headers: ${Python_Development.Module_FOUND}, "
                 "pybind11: ${pybind11_FOUND})")
endif()
