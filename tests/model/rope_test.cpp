// SPDX-License-Identifier: Apache-2.0
#include "model/rope.h"

#include <doctest/doctest.h>

#include <cmath>

#include "base/error.h"

namespace sluice {
namespace {
RopeConfig llama3(double factor, int64_t rotary) {
  RopeConfig rope;
  rope.kind = RopeConfig::Kind::kLlama3;
  rope.theta = 500000.0;
  rope.rotary = rotary;
  rope.factor = factor;
  return rope;
}

// Counts unchanged, smoothed and divided frequencies against the unscaled ones, and lists the ratios of the smoothed.
struct Bands {
  int kept = 0, divided = 0;
  std::vector<double> smoothed;
};
Bands bands(const RopeConfig& rope) {
  RopeConfig plain = rope;
  plain.kind = RopeConfig::Kind::kDefault;
  const auto scaled = rope_frequencies(rope), base = rope_frequencies(plain);
  Bands out;
  for (size_t i = 0; i < scaled.size(); ++i) {
    const double ratio = static_cast<double>(scaled[i]) / static_cast<double>(base[i]);
    if (ratio == 1.0) {
      ++out.kept;
    } else if (std::abs(ratio * rope.factor - 1.0) < 1e-6) {
      ++out.divided;
    } else {
      out.smoothed.push_back(ratio);
    }
  }
  return out;
}

void check_ratios(const std::vector<double>& found, const std::vector<double>& expected) {
  REQUIRE(found.size() == expected.size());
  for (size_t i = 0; i < found.size(); ++i) CHECK(std::abs(found[i] - expected[i]) < 6e-4);
}

std::string refusal(const char* json) {
  try {
    read_rope(Config::parse(json, "config.json"), 64, 10000.0);
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing was refused";
}
}  // namespace

TEST_CASE("Llama 3.1 frequencies: 29 unchanged, 6 smoothed, 29 divided") {
  const Bands found = bands(llama3(8.0, 128));
  CHECK(found.kept == 29);
  CHECK(found.divided == 29);
  check_ratios(found.smoothed, {.828, .644, .494, .371, .271, .190});
}

TEST_CASE("Llama 3.2 frequencies: 15 unchanged, 3 smoothed, 14 divided") {
  const Bands found = bands(llama3(32.0, 64));
  CHECK(found.kept == 15);
  CHECK(found.divided == 14);
  check_ratios(found.smoothed, {.606, .304, .103});
}

TEST_CASE("The table holds cosines, then sines, of position times frequency") {
  RopeConfig rope;
  rope.rotary = 4;
  rope.theta = 100.0;
  const auto table = rope_table(rope, 3);
  REQUIRE(table.size() == 12);
  CHECK(table[0] == 1.0f);
  CHECK(table[2] == 0.0f);
  CHECK(table[8] == doctest::Approx(std::cos(2.0)));
  CHECK(table[9] == doctest::Approx(std::cos(0.2)));
  CHECK(table[10] == doctest::Approx(std::sin(2.0)));
  CHECK(table[11] == doctest::Approx(std::sin(0.2)));
  rope.kind = RopeConfig::Kind::kLinear;
  rope.factor = 4.0;
  CHECK(rope_frequencies(rope)[0] == 0.25f);
}

TEST_CASE("Old, older and new spellings of the scaling are read") {
  const char* texts[] = {
      R"({"rope_theta": 5, "rope_scaling": {"rope_type": "linear", "factor": 4}})",
      R"({"rope_theta": 5, "rope_scaling": {"type": "linear", "factor": 4}})",
      R"({"rope_theta": 5, "rope_scaling": {"type": "linear", "rope_type": "linear", "factor": 4}})",
      R"({"rope_theta": 7, "rope_parameters": {"rope_theta": 5, "rope_type": "linear", "factor": 4}})",
  };
  for (const char* text : texts) {
    const RopeConfig rope = read_rope(Config::parse(text, "config.json"), 64, 10000.0);
    CHECK(rope.kind == RopeConfig::Kind::kLinear);
    CHECK(rope.theta == 5.0);
    CHECK(rope.factor == 4.0);
  }
  CHECK(read_rope(Config::parse(R"({"rope_scaling": null})", "c"), 64, 10000.0).theta == 10000.0);
}

TEST_CASE("Scalings that are not built are refused by name") {
  for (const char* kind : {"dynamic", "yarn", "longrope", "su", "mrope"}) {
    const std::string message =
        refusal((std::string(R"({"rope_scaling": {"rope_type": ")") + kind + R"(", "factor": 2}})").c_str());
    CHECK(message ==
          std::string("config.json: rope_scaling: rope_type is \"") + kind + "\", expected default, linear or llama3");
  }
  CHECK(refusal(R"({"rope_scaling": {"type": "yarn"}})") ==
        "config.json: rope_scaling: type is \"yarn\", expected default, linear or llama3");
  CHECK(refusal(R"({"rope_scaling": {"factor": 2}})") ==
        "config.json: rope_scaling: type is missing, expected default, linear or llama3");
  CHECK(refusal(R"({"rope_scaling": {"rope_type": "linear"}})") ==
        "config.json: rope_scaling: factor is missing, expected a number");
  CHECK(refusal(R"({"rope_scaling": {"rope_type": "llama3", "factor": 8}})") ==
        "config.json: rope_scaling: low_freq_factor is missing, expected a number");
  CHECK(refusal(R"({"rope_scaling": 3})") == "config.json: rope_scaling is 3, expected an object");
  CHECK(refusal(R"({"rope_theta": -1})") == "config.json: rope_theta is -1, expected a number above 0");
  CHECK(refusal(R"({"rope_parameters": {"full_attention": {}}})").find("one set of parameters for all layers") !=
        std::string::npos);
}

}  // namespace sluice
