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
