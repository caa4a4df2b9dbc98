# SPDX-License-Identifier: Apache-2.0
# A room is one library named sluice_<room>; its sources include as "room/file.h".

# sluice_room(NAME SOURCES a.cpp ... [DEPS room ...] [PUBLIC lib ...] [PRIVATE lib ...])
function(sluice_room name)
  cmake_parse_arguments(R "" "" "SOURCES;DEPS;PUBLIC;PRIVATE" ${ARGN})
  add_library(sluice_${name} STATIC ${R_SOURCES})
  target_include_directories(sluice_${name} PUBLIC ${CMAKE_SOURCE_DIR}/src)
  foreach(dep ${R_DEPS})
    target_link_libraries(sluice_${name} PUBLIC sluice_${dep})
  endforeach()
  target_link_libraries(sluice_${name} PUBLIC fmt::fmt ${R_PUBLIC} PRIVATE ${R_PRIVATE})
endfunction()

# sluice_plugins(NAME DIR [DEPS ...] [PRIVATE ...]): every .cpp of DIR, linked whole so that self-registration survives.
# Binaries take it with target_link_libraries(x PRIVATE sluice_<name>).
function(sluice_plugins name dir)
  cmake_parse_arguments(R "" "" "DEPS;PRIVATE" ${ARGN})
  file(GLOB files CONFIGURE_DEPENDS ${dir}/*.cpp)
  add_library(sluice_${name} OBJECT ${files})
  target_include_directories(sluice_${name} PUBLIC ${CMAKE_SOURCE_DIR}/src)
  foreach(dep ${R_DEPS})
    target_link_libraries(sluice_${name} PUBLIC sluice_${dep})
  endforeach()
  target_link_libraries(sluice_${name} PUBLIC fmt::fmt PRIVATE ${R_PRIVATE})
endfunction()

# sluice_test(ROOM LABEL SOURCES a_test.cpp ... [DEPS room ...] [PRIVATE lib ...]): one doctest binary, one CTest entry.
function(sluice_test name label)
  cmake_parse_arguments(R "" "TIMEOUT" "SOURCES;DEPS;PRIVATE" ${ARGN})
  add_executable(${name}_test ${R_SOURCES})
  target_include_directories(${name}_test PRIVATE ${CMAKE_SOURCE_DIR}/tests ${CMAKE_SOURCE_DIR}/src)
  # Less time in the compiler: what is tested is built as it ships, the test itself need not be.
  target_compile_options(${name}_test PRIVATE "$<$<CONFIG:RelWithDebInfo>:-O1;-g0>")
  foreach(dep ${R_DEPS})
    target_link_libraries(${name}_test PRIVATE sluice_${dep})
  endforeach()
  target_link_libraries(${name}_test PRIVATE sluice_test_main fmt::fmt ${R_PRIVATE})
  if(NOT R_TIMEOUT)
    set(R_TIMEOUT 900)
  endif()
  if(SLUICE_SANITIZE)
    math(EXPR R_TIMEOUT "4 * ${R_TIMEOUT}")
  endif()
  add_test(NAME ${name} COMMAND ${name}_test)
  set_tests_properties(${name} PROPERTIES LABELS ${label} TIMEOUT ${R_TIMEOUT})
endfunction()
