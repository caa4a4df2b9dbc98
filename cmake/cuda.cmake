# SPDX-License-Identifier: Apache-2.0
# The CUDA toolkit. SLUICE_CUDA builds the kernels and the CUDA backend with nvcc; the headers alone are enough to run
# both on the CPU in tests (tests/cuda/emulation).
option(SLUICE_CUDA "Build the CUDA backend (needs nvcc)" OFF)

if(SLUICE_CUDA)
  if(NOT CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES 80-real 86-real 89-real 90)
  endif()
  find_program(SLUICE_NVCC nvcc HINTS ENV CUDACXX ENV CUDA_HOME ENV CUDA_PATH PATHS /usr/local/cuda PATH_SUFFIXES bin)
  if(NOT SLUICE_NVCC AND NOT CMAKE_CUDA_COMPILER)
    message(FATAL_ERROR "SLUICE_CUDA=ON needs nvcc, and none was found. Load a CUDA module, set CUDA_HOME, or configure with -DSLUICE_CUDA=OFF.")
  endif()
  if(NOT CMAKE_CUDA_COMPILER)
    set(CMAKE_CUDA_COMPILER ${SLUICE_NVCC})
  endif()
  if(SLUICE_CCACHE)
    set(CMAKE_CUDA_COMPILER_LAUNCHER ${SLUICE_CCACHE})
  endif()
  enable_language(CUDA)
  set(CMAKE_CUDA_STANDARD 20)
  set(CMAKE_CUDA_STANDARD_REQUIRED ON)
  # CMake 3.25 does not know these of nvcc.
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
  set(CMAKE_CUDA_FLAGS_RELWITHDEBINFO "-O3")
  set(CMAKE_CUDA_FLAGS_DEBUG "-O1")
  find_package(CUDAToolkit REQUIRED)
endif()

find_path(SLUICE_CUDA_HEADERS cuda_bf16.h
  HINTS ${CUDAToolkit_INCLUDE_DIRS} ENV CUDA_HOME ENV CUDA_PATH PATHS /usr/local/cuda PATH_SUFFIXES include)
