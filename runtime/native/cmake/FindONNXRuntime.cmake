# The target ONNXRuntime::ONNXRuntime, from ONNXRUNTIME_ROOT or where CMake looks by itself. Not every copy of ONNX
# Runtime has CMake files of its own; Debian's and Python's have none.
set(ONNXRUNTIME_ROOT "" CACHE PATH "A folder with include/onnxruntime_cxx_api.h and lib/libonnxruntime.so")
find_path(ONNXRUNTIME_INCLUDE onnxruntime_cxx_api.h HINTS ${ONNXRUNTIME_ROOT}/include PATH_SUFFIXES onnxruntime)
find_library(ONNXRUNTIME_LIBRARY onnxruntime HINTS ${ONNXRUNTIME_ROOT}/lib)
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(ONNXRuntime REQUIRED_VARS ONNXRUNTIME_LIBRARY ONNXRUNTIME_INCLUDE)
if(ONNXRuntime_FOUND AND NOT TARGET ONNXRuntime::ONNXRuntime)
  add_library(ONNXRuntime::ONNXRuntime UNKNOWN IMPORTED)
  set_target_properties(ONNXRuntime::ONNXRuntime PROPERTIES IMPORTED_LOCATION ${ONNXRUNTIME_LIBRARY}
                        INTERFACE_INCLUDE_DIRECTORIES ${ONNXRUNTIME_INCLUDE})
endif()
