# SPDX-License-Identifier: Apache-2.0
# cmake -DFOLDER=src/api/web -DOUT=page.cpp -P embed_page.cmake: page.html with its style and scripts, as a string of the program.
file(READ ${FOLDER}/page.html page)
file(READ ${FOLDER}/style.css style)
set(script "")
foreach(part base markdown generate chat compare panel main)
  file(READ ${FOLDER}/${part}.js text)
  string(APPEND script "${text}")
endforeach()
string(REPLACE "/*{{style}}*/" "${style}" page "${page}")
string(REPLACE "/*{{script}}*/" "\n${script}" page "${page}")
file(WRITE ${OUT} "#include \"api/web/web.h\"\nnamespace sluice {\nstd::string_view web_page() {\n  static constexpr char kPage[] = R\"~~page~~(${page})~~page~~\";\n  return {kPage, sizeof kPage - 1};\n}\n}\n")
