// SPDX-License-Identifier: Apache-2.0
#include "model/rope.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>

#include "base/error.h"

namespace sluice {
namespace {
using Kind = RopeConfig::Kind;

// Numbers where 0 and null stand for the fallback.
double nonzero(const Config& config, const char* key, double fallback) {
  const double value = config.number(key, fallback);
  return value == 0.0 ? fallback : value;
}

double max_positions(const Config& whole, const RopeDefaults& defaults) {
  if (!whole.has("max_position_embeddings") && defaults.max_positions == 0)
    whole.refuse("max_position_embeddings", "a whole number, since the scaling of positions builds on it");
  return static_cast<double>(whole.integer("max_position_embeddings", defaults.max_positions, 1, int64_t{1} << 31));
}

std::vector<float> read_factors(const Config& section, const char* key, int64_t rotary) {
  const std::vector<double> found = section.numbers(key);
  if (static_cast<int64_t>(found.size()) != rotary / 2)
    section.refuse(key, fmt::format("a list of {} numbers, half the rotated elements of a head", rotary / 2));
  std::vector<float> out;
  for (const double v : found) {
    if (!(v > 0)) section.refuse(key, "numbers above 0");
    out.push_back(static_cast<float>(v));
  }
  return out;
}

void read_yarn(const Config& whole, const Config& section, const RopeDefaults& defaults, RopeConfig& out) {
  out.kind = Kind::kYarn;
  out.factor = section.number("factor");
  const bool own = nonzero(section, "original_max_position_embeddings", 0.0) != 0.0;
  out.original = own ? section.number("original_max_position_embeddings") : max_positions(whole, defaults);
  out.beta_fast = nonzero(section, "beta_fast", 32.0);
  out.beta_slow = nonzero(section, "beta_slow", 1.0);
  out.truncate = section.flag("truncate", true);
  const auto mscale = [&](double m) { return out.factor <= 1.0 ? 1.0 : 0.1 * m * std::log(out.factor) + 1.0; };
  const double m = section.number("mscale", 0.0), all = section.number("mscale_all_dim", 0.0);
  out.scale = section.number("attention_factor", m != 0.0 && all != 0.0 ? mscale(m) / mscale(all) : mscale(1.0));
}

void read_longrope(const Config& whole, const Config& section, const RopeDefaults& defaults, RopeConfig& out) {
  out.kind = Kind::kLongRope;
  out.short_ext = read_factors(section, "short_factor", out.rotary);
  out.long_ext = read_factors(section, "long_factor", out.rotary);
  out.original = max_positions(whole, defaults);
  double factor = section.number("factor", 1.0);
  // The ratio of the two lengths, where the config names both, goes before a factor.
  const Config& origin = whole.has("original_max_position_embeddings") ? whole : section;
  if (origin.has("original_max_position_embeddings") || defaults.original > 0) {
    const double original = origin.number("original_max_position_embeddings", defaults.original);
    factor = out.original / original;
    out.original = original;
  }
  if (!(out.original > 1)) origin.refuse("original_max_position_embeddings", "a number above 1");
  out.scale = section.number("attention_factor",
                             factor <= 1.0 ? 1.0 : std::sqrt(1.0 + std::log(factor) / std::log(out.original)));
}

// Where on the ramp between unscaled and scaled frequencies `rotations` over the original length lie.
double correction(const RopeConfig& rope, double rotations) {
  return static_cast<double>(rope.rotary) * std::log(rope.original / (rotations * 2.0 * std::numbers::pi)) /
         (2.0 * std::log(rope.theta));
}

float smoothed(const RopeConfig& rope, float inv) {
  const float factor = static_cast<float>(rope.factor);
  const float wavelength = static_cast<float>(2.0 * std::numbers::pi) / inv;
  if (wavelength > static_cast<float>(rope.original / rope.low_freq)) return inv / factor;
  if (wavelength < static_cast<float>(rope.original / rope.high_freq)) return inv;
  const float smooth = (static_cast<float>(rope.original) / wavelength - static_cast<float>(rope.low_freq)) /
                       static_cast<float>(rope.high_freq - rope.low_freq);
  return (1.0f - smooth) * inv / factor + smooth * inv;
}
}  // namespace

int64_t RopeConfig::context(int64_t max_positions) const {
  const double reached = kind == Kind::kDynamic ? factor * original : kind == Kind::kYarn ? factor * original : 0.0;
  return std::max(max_positions, static_cast<int64_t>(std::min(reached, 2147483648.0)));
}

int64_t read_rotary(const Config& config, int64_t head_dim, double fallback, double* share) {
  double part = config.number("partial_rotary_factor", fallback);
  const char* where = "partial_rotary_factor";
  if (config.is_object("rope_parameters")) {
    const Config section = config.section("rope_parameters");
    part = section.number("partial_rotary_factor", part);
  }
  const int64_t rotary = static_cast<int64_t>(static_cast<double>(head_dim) * part);
  if (!(part > 0) || part > 1 || rotary < 2 || rotary % 2 != 0)
    config.refuse(where, fmt::format("a part of the {} elements of a head that is an even number", head_dim));
  if (share != nullptr) *share = part;
  return rotary;
}

RopeConfig read_rope(const Config& config, int64_t rotary, double default_theta) {
  RopeConfig out = read_rope(config, rotary, RopeDefaults{default_theta});
  if (out.varies()) config.refuse("rope_scaling", "a scaling that does not depend on the length of the sequence");
  return out;
}

RopeConfig read_rope(const Config& config, int64_t rotary, const RopeDefaults& defaults) {
  RopeDefaults own = defaults;
  own.theta = config.number("rope_theta", defaults.theta);
  const char* key = config.has("rope_parameters") ? "rope_parameters" : "rope_scaling";
  if (config.has(key)) {
    const Config section = config.section(key);
    if (section.has("full_attention") || section.has("sliding_attention"))
      config.refuse(key, "one set of parameters for all layers");
    return read_rope_section(config, section, rotary, own);
  }
  if (!(own.theta > 0)) config.refuse("rope_theta", "a number above 0");
  if (rotary % 2 != 0) config.refuse("head_dim", "an even number, since halves of a head are rotated together");
  RopeConfig out;
  out.theta = own.theta;
  out.rotary = rotary;
  return out;
}

RopeConfig read_rope_section(const Config& whole, const Config& section, int64_t rotary, const RopeDefaults& defaults) {
  RopeConfig out;
  out.rotary = rotary;
  out.theta = section.number("rope_theta", defaults.theta);
  if (!(out.theta > 0)) section.refuse("rope_theta", "a number above 0");
  if (rotary % 2 != 0) whole.refuse("head_dim", "an even number, since halves of a head are rotated together");
  if (section.number("partial_rotary_factor", defaults.share) != defaults.share)
    section.refuse("partial_rotary_factor", fmt::format("{}", defaults.share));
  // Older configs call it "type"; where both are there they agree. Newer ones may leave it out.
  const std::string name_key = section.has("rope_type") ? "rope_type" : "type";
  std::string kind = section.text(name_key, section.has("rope_theta") ? "default" : "");
  if (kind == "su" || (kind == "yarn" && defaults.yarn_is_longrope)) kind = "longrope";
  if (kind == "default") {
    out.kind = Kind::kDefault;
  } else if (kind == "linear") {
    out.kind = Kind::kLinear;
    out.factor = section.number("factor");
  } else if (kind == "dynamic") {
    out.kind = Kind::kDynamic;
    out.factor = section.number("factor");
    out.original = max_positions(whole, defaults);
    if (rotary < 4) whole.refuse("head_dim", "at least 4 for dynamic scaling of positions");
  } else if (kind == "llama3") {
    out.kind = Kind::kLlama3;
    out.factor = section.number("factor");
    out.low_freq = section.number("low_freq_factor");
    out.high_freq = section.number("high_freq_factor");
    out.original = section.number("original_max_position_embeddings");
    if (!(out.high_freq > out.low_freq)) section.refuse("high_freq_factor", "more than low_freq_factor");
  } else if (kind == "yarn") {
    read_yarn(whole, section, defaults, out);
  } else if (kind == "longrope") {
    read_longrope(whole, section, defaults, out);
  } else {
    section.refuse(section.contains("rope_type") ? "rope_type" : name_key,
                   "default, linear, dynamic, llama3, yarn or longrope");
  }
  if (!(out.factor > 0)) section.refuse("factor", "a number above 0");
  if (!(out.original > 0)) section.refuse("original_max_position_embeddings", "a number above 0");
  return out;
}

std::vector<float> rope_frequencies(const RopeConfig& rope, int64_t length) {
  std::vector<float> out(static_cast<size_t>(rope.rotary / 2));
  const float d = static_cast<float>(rope.rotary), factor = static_cast<float>(rope.factor);
  double theta = rope.theta;
  if (rope.kind == Kind::kDynamic && static_cast<double>(length) > rope.original) {
    // In f32, as the reference has it.
    const float grown = factor * static_cast<float>(length) / static_cast<float>(rope.original) - (factor - 1.0f);
    theta = static_cast<double>(static_cast<float>(rope.theta) * std::pow(grown, d / (d - 2.0f)));
  }
  double low = 0, high = 0;
  if (rope.kind == Kind::kYarn) {
    low = correction(rope, rope.beta_fast), high = correction(rope, rope.beta_slow);
    if (rope.truncate) low = std::floor(low), high = std::ceil(high);
    low = std::max(low, 0.0), high = std::min(high, static_cast<double>(rope.rotary - 1));
    if (low == high) high += 0.001;
  }
  const std::vector<float>& ext = static_cast<double>(length) > rope.original ? rope.long_ext : rope.short_ext;
  for (size_t i = 0; i < out.size(); ++i) {
    const float exponent = static_cast<float>(2 * i) / d;
    const float power = static_cast<float>(std::pow(theta, static_cast<double>(exponent)));
    float inv = 1.0f / power;
    if (rope.kind == Kind::kLinear) inv /= factor;
    if (rope.kind == Kind::kLlama3) inv = smoothed(rope, inv);
    if (rope.kind == Kind::kLongRope) inv = 1.0f / (ext[i] * power);
    if (rope.kind == Kind::kYarn) {
      const float ramp =
          std::clamp((static_cast<float>(i) - static_cast<float>(low)) / static_cast<float>(high - low), 0.0f, 1.0f);
      const float keep = 1.0f - ramp;
      inv = 1.0f / (factor * power) * (1.0f - keep) + inv * keep;
    }
    out[i] = inv;
  }
  return out;
}

std::vector<float> rope_table(const RopeConfig& rope, int64_t positions, int64_t length) {
  const std::vector<float> inv = rope_frequencies(rope, length);
  const float scale = static_cast<float>(rope.scale);
  std::vector<float> out(static_cast<size_t>(positions * rope.rotary));
  for (int64_t p = 0; p < positions; ++p) {
    float* row = out.data() + p * rope.rotary;
    for (size_t i = 0; i < inv.size(); ++i) {
      const float angle = static_cast<float>(p) * inv[i];
      row[i] = std::cos(angle) * scale;
      row[inv.size() + i] = std::sin(angle) * scale;
    }
  }
  return out;
}

}  // namespace sluice
