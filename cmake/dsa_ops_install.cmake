# Installs into one relocatable folder, the dsa_ops package: include, lib, share/cmake/dsa_ops.

include(CMakePackageConfigHelpers)

install(TARGETS dsa_ops EXPORT dsa_ops-targets
        LIBRARY DESTINATION lib NAMELINK_SKIP COMPONENT dsa_ops)
install(DIRECTORY "${CMAKE_CURRENT_SOURCE_DIR}/include/dsa_ops" DESTINATION include
        COMPONENT dsa_ops)
install(EXPORT dsa_ops-targets NAMESPACE dsa_ops:: DESTINATION share/cmake/dsa_ops
        COMPONENT dsa_ops)
write_basic_package_version_file(
  "${CMAKE_CURRENT_BINARY_DIR}/dsa_ops-config-version.cmake" COMPATIBILITY SameMinorVersion)
install(FILES "${CMAKE_CURRENT_SOURCE_DIR}/cmake/dsa_ops-config.cmake"
              "${CMAKE_CURRENT_BINARY_DIR}/dsa_ops-config-version.cmake"
        DESTINATION share/cmake/dsa_ops COMPONENT dsa_ops)

if(TARGET dsa_ops_torch)
  install(TARGETS dsa_ops_torch LIBRARY DESTINATION lib COMPONENT dsa_ops)
endif()
if(TARGET _C)
  install(TARGETS _C LIBRARY DESTINATION . COMPONENT dsa_ops)
endif()
