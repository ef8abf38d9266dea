# find_package(logo_edge): the target logo_edge::logo_edge, with the libraries that a static library leaves to its user.
include(CMakeFindDependencyMacro)
list(APPEND CMAKE_MODULE_PATH ${CMAKE_CURRENT_LIST_DIR})
find_dependency(ONNXRuntime)
find_dependency(PNG)
find_dependency(JPEG)
include(${CMAKE_CURRENT_LIST_DIR}/logo_edge-targets.cmake)
