# libdsa_ops.so.0: every kernel behind include/dsa_ops, torch-free, with its own CUDA runtime.

set(DSA_OPS_SOURCES
  build_info.cpp
  launch.cpp
  caches/gather_index_cache.cu
  caches/gather_mla_cache.cu
  caches/kernels.cpp
  caches/merge_states.cu
  caches/prepare_index_k.cu
  caches/prepare_index_q.cu
  caches/write_index_cache.cu
  caches/write_mla_cache.cu
  indexer/checks.cpp
  indexer/indexer.cpp
  indexer/plan.cpp
  indexer/sm90_paged.cu
  indexer/sm90_ragged.cu
  indexer/tensor_map.cpp
  sparse_mla/bf16/launch.cu
  sparse_mla/checks.cpp
  sparse_mla/fp8/launch.cu
  sparse_mla/fp8/pair_launch.cu
  sparse_mla/kernels.cpp
  sparse_mla/plan.cpp
  sparse_mla/sparse_mla_decode.cu
  sparse_mla/sparse_mla_prefill.cpp
  sparse_mla/union.cu
  topk/fused/fused_topk.cpp
  topk/fused/plan.cpp
  topk/fused/scoring.cu
  topk/fused/selection.cu
  topk/indexer_topk.cpp
  topk/listed/listed_topk.cpp
  topk/listed/listing.cu
  topk/listed/selection.cu
  topk/owned/owned_topk.cu
  topk/plan.cpp
  topk/row_lengths.cu
  topk/sm90_topk.cu)
list(TRANSFORM DSA_OPS_SOURCES PREPEND "${CMAKE_CURRENT_SOURCE_DIR}/csrc/kernels/")

add_library(dsa_ops SHARED ${DSA_OPS_SOURCES})
add_library(dsa_ops::dsa_ops ALIAS dsa_ops)
dsa_ops_compile_options(dsa_ops)

target_compile_definitions(dsa_ops PRIVATE
  DSA_OPS_VERSION="${DSA_OPS_VERSION}"
  DSA_OPS_CUDA_VERSION="${CUDAToolkit_VERSION_MAJOR}.${CUDAToolkit_VERSION_MINOR}")
target_include_directories(dsa_ops
  PUBLIC "$<BUILD_INTERFACE:${CMAKE_CURRENT_SOURCE_DIR}/include>" "$<INSTALL_INTERFACE:include>"
  PRIVATE "${CMAKE_CURRENT_SOURCE_DIR}/csrc")
target_include_directories(dsa_ops SYSTEM PRIVATE "${DSA_OPS_CUTLASS_DIR}")
target_link_libraries(dsa_ops PUBLIC CUDA::toolkit)
target_compile_features(dsa_ops PUBLIC cxx_std_17)

# A spill or a local array fails the build. What ptxas only mentions (serialised wgmma, ignored
# setmaxnreg) is kept in a log beside each object file, which tests/gates reads.
target_compile_options(dsa_ops PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:
  --expt-relaxed-constexpr -lineinfo -Xfatbin=--compress-mode=size
  -Xptxas=-v,--warn-on-spills,--warn-on-local-memory-usage,--warning-as-error>)
set_target_properties(dsa_ops PROPERTIES
  CUDA_ARCHITECTURES 90a-real
  CUDA_RUNTIME_LIBRARY Static
  CUDA_COMPILER_LAUNCHER "sh;${CMAKE_CURRENT_SOURCE_DIR}/cmake/keep_log.sh;${DSA_OPS_CCACHE}"
  LINKER_LANGUAGE CUDA
  SOVERSION 0
  LINK_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/csrc/exports.map")
target_link_options(dsa_ops PRIVATE
  "LINKER:--version-script=${CMAKE_CURRENT_SOURCE_DIR}/csrc/exports.map"
  LINKER:--exclude-libs,ALL LINKER:--no-undefined)
