# libdsa_ops_torch.so: the torch ops over LibTorch's stable ABI, so that one binary serves every
# torch from DSA_OPS_TORCH_TARGET on, on any Python.

set(DSA_OPS_TORCH_TARGET 0x020a000000000000)  # 2.10.0

set(DSA_OPS_TORCH_SOURCES
  caches.cpp
  indexer.cpp
  merge.cpp
  prepare.cpp
  sparse_mla.cpp
  topk.cpp)
list(TRANSFORM DSA_OPS_TORCH_SOURCES PREPEND "${CMAKE_CURRENT_SOURCE_DIR}/csrc/torch/")

add_library(dsa_ops_torch MODULE ${DSA_OPS_TORCH_SOURCES})
dsa_ops_compile_options(dsa_ops_torch)
target_compile_definitions(dsa_ops_torch PRIVATE
  TORCH_TARGET_VERSION=${DSA_OPS_TORCH_TARGET} USE_CUDA)
target_include_directories(dsa_ops_torch PRIVATE "${CMAKE_CURRENT_SOURCE_DIR}/csrc")
target_include_directories(dsa_ops_torch SYSTEM PRIVATE "${DSA_OPS_TORCH_DIR}/include")
# torch is loaded by the time this library is; it is found by soname, without a path.
target_link_libraries(dsa_ops_torch PRIVATE dsa_ops CUDA::cudart_static
  "-Wl,--push-state,--no-as-needed" "${DSA_OPS_TORCH_DIR}/lib/libtorch.so"
  "${DSA_OPS_TORCH_DIR}/lib/libtorch_cpu.so" "-Wl,--pop-state")
# Loading it registers the ops; it exports nothing.
target_link_options(dsa_ops_torch PRIVATE
  "LINKER:--version-script=${CMAKE_CURRENT_SOURCE_DIR}/csrc/torch/exports.map"
  LINKER:--no-undefined)
set_target_properties(dsa_ops_torch PROPERTIES
  LINK_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/csrc/torch/exports.map"
  BUILD_RPATH "$ORIGIN" INSTALL_RPATH "$ORIGIN" BUILD_WITH_INSTALL_RPATH ON)
