# SPDX-License-Identifier: Apache-2.0
# `cmake --install BUILD --prefix DIR` makes a release: a folder that runs wherever it is copied.
#   bin/sluice  lib/ (libraries that a plain Linux lacks)  lib/sluice/ (modules: MPI, CUDA)  slurm/ env/ scripts/ docs/  licenses/
#   LICENSE README.md VERSION MANIFEST
# The C library, MPI and CUDA are those of the machine that it runs on.

# The old form of the run path: it holds for the libraries' own needs too, and goes before LD_LIBRARY_PATH of some module.
set(release_link_options -Wl,--disable-new-dtags)
target_link_options(sluice PRIVATE ${release_link_options})
# Where a target finds its libraries: in the release `inside`, then in further folders. The build tree has the same path:
# one that CMake exchanges at the installation ends in colons, each of which stands for the current folder.
function(run_path target inside)
  set(folders ${inside} ${ARGN})
  set_target_properties(${target} PROPERTIES INSTALL_RPATH "${folders}" BUILD_WITH_INSTALL_RPATH ON)
endfunction()
run_path(sluice "$ORIGIN/../lib")
set_target_properties(sluice PROPERTIES INSTALL_RPATH_USE_LINK_PATH ON) # shared libraries of a prefix, found there in the build tree

install(TARGETS sluice RUNTIME_DEPENDENCY_SET sluice_libraries RUNTIME DESTINATION bin)
if(TARGET sluice_mpi)
  # MPI itself stays outside: its folder, where the loader does not search by itself, is kept in the module's run path.
  target_link_options(sluice_mpi PRIVATE ${release_link_options})
  set(mpi_folders "")
  foreach(library ${MPI_CXX_LIBRARIES})
    get_filename_component(folder ${library} DIRECTORY)
    get_filename_component(real ${folder} REALPATH)
    if(NOT real IN_LIST CMAKE_CXX_IMPLICIT_LINK_DIRECTORIES AND NOT folder IN_LIST CMAKE_CXX_IMPLICIT_LINK_DIRECTORIES
       AND NOT folder MATCHES "^/usr/lib")
      list(APPEND mpi_folders ${folder})
    endif()
  endforeach()
  list(REMOVE_DUPLICATES mpi_folders)
  run_path(sluice_mpi "$ORIGIN/.." ${mpi_folders})
  install(TARGETS sluice_mpi LIBRARY DESTINATION lib/sluice)
endif()

if(TARGET sluice_cuda)
  # CUDA and NCCL are those of the machine that it runs on, from its search path or from where they were at the build.
  target_link_options(sluice_cuda PRIVATE ${release_link_options})
  run_path(sluice_cuda "$ORIGIN/.." ${CUDAToolkit_LIBRARY_DIR} /usr/local/cuda/lib64)
  install(TARGETS sluice_cuda LIBRARY DESTINATION lib/sluice)
endif()

# Whatever is linked, less the C library and the kernel's own.
install(RUNTIME_DEPENDENCY_SET sluice_libraries
  PRE_EXCLUDE_REGEXES "^ld-linux" "^linux-vdso" "^lib(c|m|dl|rt|pthread|util|resolv|nsl|anl)\\.so" "^lib(mpi|open-pal|open-rte)"
  POST_EXCLUDE_REGEXES "^/lib(64)?/(ld-|libc\\.|libm\\.)"
  LIBRARY DESTINATION lib)

install(DIRECTORY slurm/ DESTINATION slurm USE_SOURCE_PERMISSIONS PATTERN compile.sh EXCLUDE)
install(DIRECTORY env/ DESTINATION env)
install(DIRECTORY docs/ DESTINATION docs FILES_MATCHING PATTERN "*.md")
install(PROGRAMS scripts/verify-release.sh DESTINATION scripts)
install(FILES LICENSE README.md DESTINATION .)
file(WRITE ${CMAKE_BINARY_DIR}/VERSION "${PROJECT_VERSION}\n")
install(FILES ${CMAKE_BINARY_DIR}/VERSION DESTINATION .)

# Last: licences of what was bundled, no debug information (it names the places of the compiler), and the list of everything.
install(SCRIPT ${CMAKE_SOURCE_DIR}/cmake/finish_release.cmake)
