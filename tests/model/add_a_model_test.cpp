// SPDX-License-Identifier: Apache-2.0
// The worked example of docs/add-a-model.md is the file that is built.
#include <doctest/doctest.h>

#include <filesystem>

#include "base/file.h"
#include "model/model.h"
#include "places.h"

namespace sluice {

TEST_CASE("The family shown in the documentation is the one that is built") {
  const std::filesystem::path root = test::source_dir();
  const std::string page = read_file(root / "docs/add-a-model.md");
  const std::string open = "```cpp\n", close = "\n```\n", named = "`src/model/families/starcoder2.cpp`:\n\n";
  const size_t at = page.find(named + open);
  REQUIRE(at != std::string::npos);
  const size_t begin = at + named.size() + open.size(), end = page.find(close, begin);
  REQUIRE(end != std::string::npos);
  CHECK(page.substr(begin, end + 1 - begin) == read_file(root / "src/model/families/starcoder2.cpp"));
  bool registered = false;
  for (const FamilyNames& family : family_names()) registered |= family.name == "starcoder2";
  CHECK(registered);
}

}  // namespace sluice
