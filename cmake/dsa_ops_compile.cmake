# Compile options that all targets share, and the CUTLASS headers.

if(NOT DSA_OPS_CUTLASS_DIR)
  if(NOT Python_Interpreter_FOUND)
    message(FATAL_ERROR "dsa_ops: set DSA_OPS_CUTLASS_DIR, or have Python 3.10 or newer find it")
  endif()
  execute_process(
    COMMAND "${Python_EXECUTABLE}" "${CMAKE_CURRENT_SOURCE_DIR}/third_party/cutlass.py"
    OUTPUT_VARIABLE DSA_OPS_CUTLASS_DIR OUTPUT_STRIP_TRAILING_WHITESPACE
    COMMAND_ERROR_IS_FATAL ANY)
endif()
if(NOT EXISTS "${DSA_OPS_CUTLASS_DIR}/cute/arch/mma_sm90_gmma.hpp")
  message(FATAL_ERROR "dsa_ops: DSA_OPS_CUTLASS_DIR must be CUTLASS's include folder, got ${DSA_OPS_CUTLASS_DIR}")
endif()

find_program(DSA_OPS_CCACHE ccache)

# Compiles with the warnings, visibility and path mapping of the project. Paths are mapped because
# error texts carry __FILE__.
function(dsa_ops_compile_options target)
  set_target_properties(${target} PROPERTIES
    CXX_STANDARD 17 CXX_STANDARD_REQUIRED ON CXX_EXTENSIONS OFF
    CUDA_STANDARD 17 CUDA_STANDARD_REQUIRED ON CUDA_EXTENSIONS OFF
    CXX_VISIBILITY_PRESET hidden CUDA_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON
    POSITION_INDEPENDENT_CODE ON)
  set(map "-ffile-prefix-map=${CMAKE_CURRENT_SOURCE_DIR}/=")
  target_compile_options(${target} PRIVATE
    $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra ${map}>
    $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,${map}>)
  target_link_options(${target} PRIVATE LINKER:--gc-sections)
  if(DSA_OPS_CCACHE)
    set_target_properties(${target} PROPERTIES CXX_COMPILER_LAUNCHER "${DSA_OPS_CCACHE}")
  endif()
endfunction()
