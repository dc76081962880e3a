# find_package(dsa_ops): the target dsa_ops::dsa_ops.
include(CMakeFindDependencyMacro)
find_dependency(CUDAToolkit)
include("${CMAKE_CURRENT_LIST_DIR}/dsa_ops-targets.cmake")
