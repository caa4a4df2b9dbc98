# SPDX-License-Identifier: Apache-2.0
# Libraries from the system or from modules, each wrapped as one imported target named dep::X.
find_package(Threads REQUIRED)
find_package(ZLIB REQUIRED)
find_package(PkgConfig)
find_package(MPI COMPONENTS CXX)

find_package(spdlog REQUIRED)
find_package(fmt REQUIRED)
find_package(OpenSSL)

# Header-only libraries that ship no target on Debian 12.
function(sluice_header_dep name header)
  find_path(SLUICE_${name}_INCLUDE ${header})
  if(NOT SLUICE_${name}_INCLUDE)
    message(FATAL_ERROR "${header} not found. Install its package (scripts/quickstart.sh names it) or set SLUICE_${name}_INCLUDE.")
  endif()
  add_library(dep::${name} INTERFACE IMPORTED)
  target_include_directories(dep::${name} INTERFACE ${SLUICE_${name}_INCLUDE})
endfunction()
sluice_header_dep(json nlohmann/json.hpp)
sluice_header_dep(cli11 CLI/CLI.hpp)
sluice_header_dep(onig_headers oniguruma.h)
sluice_header_dep(utf8proc_headers utf8proc.h)

find_library(SLUICE_ONIG onig REQUIRED)
add_library(dep::onig INTERFACE IMPORTED)
target_link_libraries(dep::onig INTERFACE ${SLUICE_ONIG} dep::onig_headers)
find_library(SLUICE_UTF8PROC utf8proc REQUIRED)
add_library(dep::utf8proc INTERFACE IMPORTED)
target_link_libraries(dep::utf8proc INTERFACE ${SLUICE_UTF8PROC} dep::utf8proc_headers)

# cpp-httplib: Debian ships a shared library with headers.
find_path(SLUICE_HTTPLIB_INCLUDE httplib.h)
if(NOT SLUICE_HTTPLIB_INCLUDE)
  message(FATAL_ERROR "httplib.h (cpp-httplib) not found. Install libcpp-httplib-dev or set SLUICE_HTTPLIB_INCLUDE.")
endif()
add_library(dep::httplib INTERFACE IMPORTED)
target_include_directories(dep::httplib INTERFACE ${SLUICE_HTTPLIB_INCLUDE})
find_library(SLUICE_HTTPLIB cpp-httplib)
if(SLUICE_HTTPLIB)
  target_link_libraries(dep::httplib INTERFACE ${SLUICE_HTTPLIB})
endif()
target_link_libraries(dep::httplib INTERFACE Threads::Threads)
# A compiled copy fixes the layout of its classes by these definitions; its .pc file names them.
pkg_check_modules(SLUICE_HTTPLIB_PC QUIET cpp-httplib)
if(SLUICE_HTTPLIB_PC_FOUND AND SLUICE_HTTPLIB)
  target_compile_options(dep::httplib INTERFACE ${SLUICE_HTTPLIB_PC_CFLAGS_OTHER})
else()
  target_compile_definitions(dep::httplib INTERFACE CPPHTTPLIB_USE_POLL)
endif()

# Found by its files: upstream's release installs no CMake package, and a system's would win over a prefix's files.
sluice_header_dep(hwy_headers hwy/highway.h)
find_library(SLUICE_HWY hwy REQUIRED)
add_library(dep::hwy INTERFACE IMPORTED)
target_link_libraries(dep::hwy INTERFACE ${SLUICE_HWY} dep::hwy_headers)

# Line editing. A static copy needs the terminal library beside it.
sluice_header_dep(edit_headers histedit.h)
find_library(SLUICE_EDIT edit REQUIRED)
add_library(dep::edit INTERFACE IMPORTED)
target_link_libraries(dep::edit INTERFACE ${SLUICE_EDIT} dep::edit_headers)
if(SLUICE_EDIT MATCHES "\\.a$")
  find_library(SLUICE_CURSES NAMES ncurses tinfo REQUIRED)
  target_link_libraries(dep::edit INTERFACE ${SLUICE_CURSES})
endif()

find_package(prometheus-cpp REQUIRED)
find_package(CURL REQUIRED)

