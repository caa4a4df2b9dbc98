# SPDX-License-Identifier: Apache-2.0
# The run-time module sluice_cuda.so: backend/cuda and comm/nccl over a build of the kernels. What it needs of the other
# rooms comes from the executable that opens it.
file(GLOB SLUICE_CUDA_SOURCES CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/backend/cuda/*.cpp ${CMAKE_SOURCE_DIR}/src/comm/nccl/*.cpp)

# sluice_cuda_objects(NAME KERNELS): the sources once compiled, for a module or a test over the library KERNELS.
function(sluice_cuda_objects name kernels)
  add_library(${name} OBJECT ${SLUICE_CUDA_SOURCES})
  target_include_directories(${name} PUBLIC ${CMAKE_SOURCE_DIR}/src ${CMAKE_SOURCE_DIR})
  target_include_directories(${name} SYSTEM PUBLIC ${SLUICE_CUDA_HEADERS})
  target_link_libraries(${name} PUBLIC ${kernels} fmt::fmt ${CMAKE_DL_LIBS})
endfunction()

# sluice_cuda_module(NAME OBJECTS FOLDER): the module in FOLDER.
function(sluice_cuda_module name objects folder)
  add_library(${name} MODULE)
  target_link_libraries(${name} PRIVATE ${objects})
  set_target_properties(${name} PROPERTIES PREFIX "" OUTPUT_NAME sluice_cuda LIBRARY_OUTPUT_DIRECTORY ${folder})
endfunction()
