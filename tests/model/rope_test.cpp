// SPDX-License-Identifier: Apache-2.0
#include "model/rope.h"

#include <doctest/doctest.h>

#include <algorithm>
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

RopeConfig read(const char* json, int64_t rotary, const RopeDefaults& defaults = {}) {
  return read_rope(Config::parse(json, "config.json"), rotary, defaults);
}

TEST_CASE("YaRN as gpt-oss has it: bounds that are not whole, and their attention factor") {
  const RopeConfig rope = read(R"({"rope_theta": 150000, "rope_scaling": {"rope_type": "yarn", "factor": 32,
    "beta_fast": 32, "beta_slow": 1, "truncate": false, "original_max_position_embeddings": 4096}})",
                               64);
  CHECK(rope.scale == doctest::Approx(1.34657).epsilon(1e-5));
  RopeConfig plain = rope;
  plain.kind = RopeConfig::Kind::kDefault;
  const auto scaled = rope_frequencies(rope), base = rope_frequencies(plain);
  for (size_t i = 0; i < 32; ++i) {
    const double ramp = std::clamp((static_cast<double>(i) - 8.0928) / (17.398 - 8.0928), 0.0, 1.0);
    const double want = static_cast<double>(base[i]) * (1.0 - ramp + ramp / 32.0);
    CHECK(static_cast<double>(scaled[i]) == doctest::Approx(want).epsilon(1e-4));
  }
  CHECK(rope_table(rope, 1)[0] == doctest::Approx(1.34657).epsilon(1e-5));  // cos 0 times the factor
  CHECK(rope.context(4096) == 131072);
}

TEST_CASE("YaRN takes whole bounds, defaults for null and 0, and the ratio of two mscales") {
  const RopeConfig rope = read(R"({"rope_theta": 10000, "max_position_embeddings": 163840, "rope_scaling":
    {"type": "yarn", "factor": 40, "beta_fast": 0, "beta_slow": null, "mscale": 1.0, "mscale_all_dim": 0.707,
     "original_max_position_embeddings": 4096}})",
                               64);
  CHECK(rope.beta_fast == 32.0);
  CHECK(rope.beta_slow == 1.0);
  CHECK(rope.scale == doctest::Approx((0.1 * std::log(40.0) + 1) / (0.0707 * std::log(40.0) + 1)));
  RopeConfig plain = rope;
  plain.kind = RopeConfig::Kind::kDefault;
  const auto scaled = rope_frequencies(rope), base = rope_frequencies(plain);
  CHECK(scaled[10] == base[10]);                                                                  // floor(10.47)
  CHECK(static_cast<double>(scaled[23]) == doctest::Approx(static_cast<double>(base[23]) / 40));  // ceil(22.51)
  CHECK(static_cast<double>(scaled[11]) ==
        doctest::Approx(static_cast<double>(base[11]) * (1 - 1 / 13.0 + 1 / 13.0 / 40)));
  CHECK(read(R"({"max_position_embeddings": 64, "rope_scaling": {"type": "yarn", "factor": 1}})", 8).scale == 1.0);
  CHECK(read(R"({"max_position_embeddings": 64, "rope_scaling": {"type": "yarn", "factor": 2}})", 8).original == 64.0);
}

TEST_CASE("longrope has short and long factors and one scale by the ratio of the lengths") {
  const char* text = R"({"max_position_embeddings": 131072, "original_max_position_embeddings": 4096,
    "rope_scaling": {"type": "TYPE", "factor": 3, "short_factor": [1, 1.5], "long_factor": [2, 8]}})";
  for (const std::string type : {"longrope", "su", "yarn"}) {
    std::string json = text;
    json.replace(json.find("TYPE"), 4, type);
    RopeDefaults phi3;
    phi3.yarn_is_longrope = true;
    const RopeConfig rope = read(json.c_str(), 4, phi3);
    CHECK(rope.kind == RopeConfig::Kind::kLongRope);
    CHECK(rope.original == 4096.0);
    CHECK(rope.scale == doctest::Approx(std::sqrt(1 + std::log(32.0) / std::log(4096.0))));
    CHECK(rope_frequencies(rope, 4096) == std::vector<float>{1.0f, 1.0f / (1.5f * 100.0f)});
    CHECK(rope_frequencies(rope, 4097) == std::vector<float>{0.5f, 1.0f / (8.0f * 100.0f)});
    CHECK(rope.context(131072) == 131072);
  }
}

TEST_CASE("dynamic scaling grows the base with the length beyond the original context") {
  const RopeConfig rope =
      read(R"({"max_position_embeddings": 64, "rope_scaling": {"rope_type": "dynamic", "factor": 4}})", 8);
  RopeConfig plain = rope;
  plain.kind = RopeConfig::Kind::kDefault;
  CHECK(rope_frequencies(rope, 64) == rope_frequencies(plain));
  CHECK(rope_frequencies(rope) == rope_frequencies(plain));
  const double base = 10000.0 * std::pow(4.0 * 100 / 64 - 3, 8.0 / 6);
  const auto grown = rope_frequencies(rope, 100);
  for (size_t i = 0; i < 4; ++i)
    CHECK(static_cast<double>(grown[i]) == doctest::Approx(std::pow(base, -static_cast<double>(i) / 4)).epsilon(1e-5));
  CHECK(rope.context(64) == 256);
}

TEST_CASE("A part of the head is rotated, by either place of its key") {
  CHECK(read_rotary(Config::parse(R"({"partial_rotary_factor": 0.4})", "c"), 80, 0.5) == 32);
  CHECK(read_rotary(Config::parse(R"({"rope_parameters": {"partial_rotary_factor": 0.75}})", "c"), 128, 1.0) == 96);
  CHECK(read_rotary(Config::parse("{}", "c"), 64, 0.5) == 32);
  CHECK_THROWS_WITH_AS(read_rotary(Config::parse(R"({"partial_rotary_factor": 0.1})", "c"), 30, 1.0),
                       "c: partial_rotary_factor is 0.1, expected a part of the 30 elements of a head that is an even "
                       "number",
                       Error);
}

TEST_CASE("Scalings that are not built or not whole are refused by name") {
  CHECK(
      refusal(R"({"rope_scaling": {"rope_type": "mrope", "factor": 2}})") ==
      "config.json: rope_scaling: rope_type is \"mrope\", expected default, linear, dynamic, llama3, yarn or longrope");
  CHECK(refusal(R"({"rope_scaling": {"factor": 2}})") ==
        "config.json: rope_scaling: type is missing, expected default, linear, dynamic, llama3, yarn or longrope");
  CHECK(refusal(R"({"rope_scaling": {"rope_type": "linear"}})") ==
        "config.json: rope_scaling: factor is missing, expected a number");
  CHECK(refusal(R"({"rope_scaling": {"rope_type": "dynamic", "factor": 2}})") ==
        "config.json: max_position_embeddings is missing, expected a whole number, since the scaling of positions "
        "builds on it");
  CHECK(refusal(R"({"max_position_embeddings": 9, "rope_scaling": {"type": "longrope", "short_factor": [1, 2]}})") ==
        "config.json: rope_scaling: short_factor is [1,2], expected a list of 32 numbers, half the rotated elements of "
        "a head");
  CHECK(refusal(R"({"rope_scaling": {"rope_type": "llama3", "factor": 8}})") ==
        "config.json: rope_scaling: low_freq_factor is missing, expected a number");
  CHECK(refusal(R"({"rope_scaling": 3})") == "config.json: rope_scaling is 3, expected an object");
  CHECK(refusal(R"({"rope_theta": -1})") == "config.json: rope_theta is -1, expected a number above 0");
  CHECK(refusal(R"({"rope_parameters": {"full_attention": {}}})").find("one set of parameters for all layers") !=
        std::string::npos);
}

}  // namespace sluice
