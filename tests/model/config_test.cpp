// SPDX-License-Identifier: Apache-2.0
#include "model/config.h"

#include <doctest/doctest.h>

#include "base/error.h"

namespace sluice {
namespace {
const Config kConfig = Config::parse(
    R"({"n": 3, "x": 0.5, "t": "name", "f": true, "none": null, "list": ["a", "b"], "ids": [1, 2], "o": {"n": 4}})",
    "c.json");
}  // namespace

TEST_CASE("Values are read by type and fall back where absent or null") {
  CHECK(kConfig.integer("n", 1, 0, 9) == 3);
  CHECK(kConfig.integer("none", 7, 0, 9) == 7);
  CHECK(kConfig.number("x", 1.0) == 0.5);
  CHECK(kConfig.number("n", 1.0) == 3.0);
  CHECK(kConfig.text("t", "") == "name");
  CHECK(kConfig.flag("f", false));
  CHECK(kConfig.texts("list") == std::vector<std::string>{"a", "b"});
  CHECK(kConfig.integers("ids") == std::vector<int64_t>{1, 2});
  CHECK(kConfig.integers("n") == std::vector<int64_t>{3});
  CHECK(kConfig.integers("absent").empty());
  CHECK(kConfig.section("o").integer("n", 0, 0, 9) == 4);
  CHECK(kConfig.contains("none"));
  CHECK_FALSE(kConfig.has("none"));
}

TEST_CASE("A value of the wrong type or range is refused with file, key, found and expected") {
  CHECK_THROWS_WITH_AS(kConfig.integer("n", 1, 0, 2), "c.json: n is 3, expected a whole number from 0 to 2", Error);
  CHECK_THROWS_WITH_AS(kConfig.integer("x", 1, 0, 2), "c.json: x is 0.5, expected a whole number from 0 to 2", Error);
  CHECK_THROWS_WITH_AS(kConfig.flag("n", true), "c.json: n is 3, expected true or false", Error);
  CHECK_THROWS_WITH_AS(kConfig.text("f", ""), "c.json: f is true, expected a text", Error);
  CHECK_THROWS_WITH_AS(kConfig.number("absent"), "c.json: absent is missing, expected a number", Error);
  CHECK_THROWS_WITH_AS(kConfig.section("o").refuse("n", "5"), "c.json: o: n is 4, expected 5", Error);
  CHECK_THROWS_WITH_AS(Config::parse("[1]", "c.json"), "c.json is not a JSON object", Error);
  CHECK_THROWS_AS(Config::parse("{", "c.json"), Error);
}

TEST_CASE("Activations go by the names of configs and unknown ones are refused") {
  const auto read = [](const std::string& name) {
    return read_activation(Config::parse(R"({"hidden_act": ")" + name + "\"}", "c.json"), "hidden_act", "silu");
  };
  CHECK(read("silu") == Activation::kSilu);
  CHECK(read("swish") == Activation::kSilu);
  CHECK(read("gelu") == Activation::kGeluErf);
  CHECK(read("gelu_pytorch_tanh") == Activation::kGeluTanh);
  CHECK(read("relu") == Activation::kRelu);
  CHECK_THROWS_AS(read("quick_gelu"), Error);
}

}  // namespace sluice
