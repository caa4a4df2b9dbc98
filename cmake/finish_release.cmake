# SPDX-License-Identifier: Apache-2.0
# Runs at the end of an installation: licences of the bundled Debian libraries, stripping, MANIFEST.
set(release "$ENV{DESTDIR}${CMAKE_INSTALL_PREFIX}")

file(GLOB libraries "${release}/lib/*.so*")
find_program(dpkg_query dpkg-query)
if(dpkg_query)
  foreach(library ${libraries})
    get_filename_component(name ${library} NAME)
    execute_process(COMMAND ${dpkg_query} -S "*-linux-gnu/${name}" OUTPUT_VARIABLE owner ERROR_QUIET)
    if(owner MATCHES "^([^:\n]+)" AND EXISTS "/usr/share/doc/${CMAKE_MATCH_1}/copyright")
      file(INSTALL "/usr/share/doc/${CMAKE_MATCH_1}/copyright" DESTINATION "${release}/licenses/${CMAKE_MATCH_1}" MESSAGE_NEVER FOLLOW_SYMLINK_CHAIN)
    endif()
  endforeach()
endif()

find_program(strip strip)
if(strip)
  file(GLOB modules "${release}/lib/sluice/*.so")
  execute_process(COMMAND ${strip} --strip-debug "${release}/bin/sluice" ${modules} COMMAND_ERROR_IS_FATAL ANY)
endif()

execute_process(COMMAND bash "${release}/scripts/verify-release.sh" "${release}" --record COMMAND_ERROR_IS_FATAL ANY)
