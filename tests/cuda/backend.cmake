# SPDX-License-Identifier: Apache-2.0
# The whole backend over stand-ins for cuBLASLt and NCCL, as a module that the binary itself opens.
file(GLOB standins CONFIGURE_DEPENDS standins/*.cpp)
add_library(sluice_cuda_standins OBJECT ${standins})
target_link_libraries(sluice_cuda_standins PUBLIC sluice_emulation)
sluice_cuda_objects(sluice_cuda_emulated_objects sluice_kernels_emulated)
sluice_cuda_module(sluice_cuda_emulated sluice_cuda_emulated_objects ${CMAKE_BINARY_DIR}/emulated)
target_link_libraries(sluice_cuda_emulated PRIVATE sluice_cuda_standins)

sluice_cuda_test(backend SOURCES backend/ops_test.cpp backend/experts_test.cpp backend/device_test.cpp DEPS cuda_emulated_objects cuda_standins)

# Every family's small checkpoint.
sluice_cuda_test(families SOURCES backend/families_test.cpp backend/launches_test.cpp DEPS cuda_emulated_objects cuda_standins model_families model comm)
set_tests_properties(cuda_families PROPERTIES TIMEOUT 1800)

find_package(Python3 COMPONENTS Interpreter)
if(Python3_FOUND)
  add_test(NAME cuda_generate COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_SOURCE_DIR}/generate_test.py)
  set_tests_properties(cuda_generate PROPERTIES LABELS cuda-emulated TIMEOUT 900 RUN_SERIAL ON
    ENVIRONMENT "SLUICE_BINARY=${CMAKE_BINARY_DIR}/sluice;SLUICE_CUDA_MODULE=${CMAKE_BINARY_DIR}/emulated/sluice_cuda.so;PYTHONDONTWRITEBYTECODE=1")
endif()

# The same on a GPU, for scripts/gpu-check.sh. Not a CTest entry: most machines that build it have none.
if(SLUICE_CUDA)
  add_executable(cuda_native_test backend/ops_test.cpp backend/experts_test.cpp backend/device_test.cpp)
  target_include_directories(cuda_native_test PRIVATE ${CMAKE_SOURCE_DIR}/tests)
  target_link_libraries(cuda_native_test PRIVATE sluice_test_main sluice_cuda_objects sluice_backend)
  # Where gpu-bundle.sh puts them, below the release's own libraries.
  set_target_properties(cuda_native_test cuda_native_kernels_test cuda_kernels_bench PROPERTIES BUILD_RPATH "$ORIGIN/../../lib")
endif()
