// SPDX-License-Identifier: Apache-2.0
#include "base/json_problem.h"

#include <doctest/doctest.h>

using namespace sluice;

TEST_CASE("what is said of a file that is no JSON begins with its place") {
  CHECK(json_problem("[json.exception.parse_error.101] parse error at line 2, column 5: syntax error") ==
        "line 2, column 5: syntax error");
  CHECK(json_problem("[json.exception.type_error.302] type must be string") == "type must be string");
  CHECK(json_problem("anything else") == "anything else");
  CHECK(json_problem("[no end") == "[no end");
}
