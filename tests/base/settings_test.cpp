// SPDX-License-Identifier: Apache-2.0
#include "base/settings.h"

#include <doctest/doctest.h>

#include <map>
#include <string>

#include "base/error.h"

using namespace sluice;

namespace {
Settings make(const std::map<std::string, std::string>& environment) {
  return Settings({{"port", {"SLUICE_PORT", "PORT"}, "3000", "Port."}, {"quantize", {"QUANTIZE"}, "", "Scheme."}},
                  [&](const char* name) {
                    auto f = environment.find(name);
                    return f == environment.end() ? nullptr : f->second.c_str();
                  });
}
}  // namespace

TEST_CASE("a flag beats the environment, which beats the default") {
  Settings settings = make({{"PORT", "4000"}});
  CHECK(settings.integer("port", 1, 65535) == 4000);
  CHECK(settings.origin("port") == "PORT");
  settings.set("port", "5000", "--port");
  CHECK(settings.integer("port", 1, 65535) == 5000);
  CHECK(settings.origin("port") == "--port");
  CHECK(make({}).integer("port", 1, 65535) == 3000);
  CHECK(make({{"PORT", "1"}, {"SLUICE_PORT", "2"}}).origin("port") == "SLUICE_PORT");
}

TEST_CASE("a value that no run could take is refused, read or not") {
  const auto check = [](const char* name, const char* value) {
    const std::vector<Setting> table = {{"seconds", {"SECONDS"}, "90", "", RealNumber{0, 100}},
                                        {"count", {"COUNT"}, "", "", WholeNumber{1, 8}},
                                        {"cache", {"CACHE"}, "true", "", YesOrNo{}},
                                        {"kind", {"KIND"}, "auto", "", OneOf{"auto", "cpu", "cuda"}},
                                        {"text", {"TEXT"}, "", ""}};
    Settings(table, [&](const char* asked) {
      return std::string_view(asked) == name ? value : nullptr;
    }).check_values();
  };
  CHECK_NOTHROW(check("TEXT", "anything"));
  CHECK_NOTHROW(check("COUNT", "8"));
  CHECK_THROWS_WITH_AS(check("SECONDS", "-1"), "seconds (from SECONDS): expected a number from 0 to 100, found '-1'",
                       Error);
  CHECK_THROWS_WITH_AS(check("COUNT", "9"), "count (from COUNT): expected a whole number from 1 to 8, found '9'",
                       Error);
  CHECK_THROWS_WITH_AS(check("CACHE", "perhaps"), "cache (from CACHE): expected true or false, found 'perhaps'", Error);
  CHECK_THROWS_WITH_AS(check("KIND", "gpu"), "kind (from KIND): expected auto, cpu or cuda, found 'gpu'", Error);
}

TEST_CASE("an empty variable counts as unset") {
  CHECK(make({{"PORT", ""}}).origin("port") == "default");
  CHECK_FALSE(make({{"QUANTIZE", ""}}).has("quantize"));
}

TEST_CASE("a bad number names setting, origin, range and value") {
  const Settings settings = make({{"PORT", "80a"}});
  try {
    settings.integer("port", 1, 65535);
    FAIL("expected an Error");
  } catch (const Error& error) {
    const std::string text = error.what();
    for (const char* part : {"port", "PORT", "1", "65535", "80a"}) CHECK(text.find(part) != std::string::npos);
  }
}
