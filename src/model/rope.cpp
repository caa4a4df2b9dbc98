// SPDX-License-Identifier: Apache-2.0
#include "model/rope.h"

#include <cmath>
#include <numbers>
#include <string>

#include "base/error.h"

namespace sluice {

RopeConfig read_rope(const Config& config, int64_t rotary, double default_theta) {
  RopeConfig out;
  out.rotary = rotary;
  out.theta = config.number("rope_theta", default_theta);
  const char* key = config.has("rope_parameters") ? "rope_parameters" : "rope_scaling";
  if (config.has(key)) {
    const Config scaling = config.section(key);
    if (scaling.has("full_attention") || scaling.has("sliding_attention"))
      config.refuse(key, "one set of parameters for all layers");
    out.theta = scaling.number("rope_theta", out.theta);
    if (scaling.number("partial_rotary_factor", 1.0) != 1.0) scaling.refuse("partial_rotary_factor", "1");
    // Older configs call it "type"; where both are there they agree.
    const std::string name_key = scaling.has("rope_type") ? "rope_type" : "type";
    const std::string kind = scaling.text(name_key, key == std::string("rope_parameters") ? "default" : "");
    if (kind == "default") {
      out.kind = RopeConfig::Kind::kDefault;
    } else if (kind == "linear") {
      out.kind = RopeConfig::Kind::kLinear;
      out.factor = scaling.number("factor");
    } else if (kind == "llama3") {
      out.kind = RopeConfig::Kind::kLlama3;
      out.factor = scaling.number("factor");
      out.low_freq = scaling.number("low_freq_factor");
      out.high_freq = scaling.number("high_freq_factor");
      out.original = scaling.number("original_max_position_embeddings");
      if (!(out.high_freq > out.low_freq)) scaling.refuse("high_freq_factor", "more than low_freq_factor");
    } else {
      scaling.refuse(scaling.contains("rope_type") ? "rope_type" : name_key, "default, linear or llama3");
    }
    if (!(out.factor > 0)) scaling.refuse("factor", "a number above 0");
  }
  if (!(out.theta > 0)) config.refuse("rope_theta", "a number above 0");
  if (rotary % 2 != 0) config.refuse("head_dim", "an even number, since halves of a head are rotated together");
  return out;
}

std::vector<float> rope_frequencies(const RopeConfig& rope) {
  std::vector<float> out(static_cast<size_t>(rope.rotary / 2));
  const float factor = static_cast<float>(rope.factor);
  for (size_t i = 0; i < out.size(); ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(rope.rotary);
    float inv = 1.0f / static_cast<float>(std::pow(rope.theta, static_cast<double>(exponent)));
    if (rope.kind == RopeConfig::Kind::kLinear) inv /= factor;
    if (rope.kind == RopeConfig::Kind::kLlama3) {
      const float wavelength = static_cast<float>(2.0 * std::numbers::pi) / inv;
      const float longest = static_cast<float>(rope.original / rope.low_freq);
      const float shortest = static_cast<float>(rope.original / rope.high_freq);
      if (wavelength > longest) {
        inv /= factor;
      } else if (wavelength >= shortest) {
        const float smooth = (static_cast<float>(rope.original) / wavelength - static_cast<float>(rope.low_freq)) /
                             static_cast<float>(rope.high_freq - rope.low_freq);
        inv = (1.0f - smooth) * inv / factor + smooth * inv;
      }
    }
    out[i] = inv;
  }
  return out;
}

std::vector<float> rope_table(const RopeConfig& rope, int64_t positions) {
  const std::vector<float> inv = rope_frequencies(rope);
  std::vector<float> out(static_cast<size_t>(positions * rope.rotary));
  for (int64_t p = 0; p < positions; ++p) {
    float* row = out.data() + p * rope.rotary;
    for (size_t i = 0; i < inv.size(); ++i) {
      const float angle = static_cast<float>(p) * inv[i];
      row[i] = std::cos(angle);
      row[inv.size() + i] = std::sin(angle);
    }
  }
  return out;
}

}  // namespace sluice
