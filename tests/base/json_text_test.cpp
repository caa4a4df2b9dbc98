// SPDX-License-Identifier: Apache-2.0
#include "base/json_text.h"

#include <doctest/doctest.h>

namespace sluice {

TEST_CASE("text becomes part of a JSON string with letters for what JSON has letters for") {
  std::string out = "before ";
  append_json_text(out, std::string_view("a\"b\\c/\b\f\n\r\t\0\x1f\x7f \xc3\xa9", 17));
  CHECK(out == "before a\\\"b\\\\c/\\b\\f\\n\\r\\t\\u0000\\u001f\x7f \xc3\xa9");
}

}  // namespace sluice
