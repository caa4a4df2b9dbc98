// SPDX-License-Identifier: Apache-2.0
#include "model/config.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "base/json_problem.h"

namespace sluice {

struct Config::Node {    // NOLINT(bugprone-exception-escape): of the library's destructor
  nlohmann::json value;  // an object
  const nlohmann::json* find(const std::string& key) const {
    const auto found = value.find(key);
    return found == value.end() || found->is_null() ? nullptr : &*found;
  }
};

Config Config::read(const std::filesystem::path& file) { return parse(read_file(file), file.string()); }

Config Config::parse(std::string_view json, std::string origin) {
  auto node = std::make_shared<Node>();
  try {
    node->value = nlohmann::json::parse(json);
  } catch (const nlohmann::json::exception& error) {
    throw Error(
        fmt::format("{} is not JSON: {}; mend it, or copy or download it again", origin, json_problem(error.what())));
  }
  if (!node->value.is_object()) throw Error(fmt::format("{} is not a JSON object", origin));
  return Config(std::move(node), std::move(origin));
}

bool Config::contains(const std::string& key) const { return node_->value.contains(key); }
bool Config::has(const std::string& key) const { return node_->find(key) != nullptr; }
bool Config::is_object(const std::string& key) const { return has(key) && node_->find(key)->is_object(); }

void Config::refuse(const std::string& key, const std::string& expected) const {
  const auto found = node_->value.find(key);
  std::string text = found == node_->value.end() ? "missing" : found->dump();
  if (text.size() > 80) text = text.substr(0, 77) + "...";
  throw Error(fmt::format("{}: {} is {}, expected {}", origin_, key, text, expected));
}

int64_t Config::integer(const std::string& key, int64_t fallback, int64_t low, int64_t high) const {
  const nlohmann::json* found = node_->find(key);
  if (found == nullptr) return fallback;
  if (!found->is_number_integer() || *found < low || *found > high)
    refuse(key, fmt::format("a whole number from {} to {}", low, high));
  return found->get<int64_t>();
}

double Config::number(const std::string& key, double fallback) const { return has(key) ? number(key) : fallback; }

double Config::number(const std::string& key) const {
  const nlohmann::json* found = node_->find(key);
  if (found == nullptr || !found->is_number()) refuse(key, "a number");
  return found->get<double>();
}

bool Config::flag(const std::string& key, bool fallback) const {
  const nlohmann::json* found = node_->find(key);
  if (found == nullptr) return fallback;
  if (!found->is_boolean()) refuse(key, "true or false");
  return found->get<bool>();
}

std::string Config::text(const std::string& key, const std::string& fallback) const {
  const nlohmann::json* found = node_->find(key);
  if (found == nullptr) return fallback;
  if (!found->is_string()) refuse(key, "a text");
  return found->get<std::string>();
}

std::vector<std::string> Config::texts(const std::string& key) const {
  std::vector<std::string> out;
  const nlohmann::json* found = node_->find(key);
  if (found == nullptr) return out;
  if (!found->is_array()) refuse(key, "a list of texts");
  for (const auto& item : *found) {
    if (!item.is_string()) refuse(key, "a list of texts");
    out.push_back(item.get<std::string>());
  }
  return out;
}

std::vector<int64_t> Config::integers(const std::string& key) const {
  const nlohmann::json* found = node_->find(key);
  if (found == nullptr) return {};
  if (found->is_number_integer()) return {found->get<int64_t>()};
  std::vector<int64_t> out;
  if (!found->is_array()) refuse(key, "a whole number or a list of them");
  for (const auto& item : *found) {
    if (!item.is_number_integer()) refuse(key, "a whole number or a list of them");
    out.push_back(item.get<int64_t>());
  }
  return out;
}

std::vector<double> Config::numbers(const std::string& key) const {
  std::vector<double> out;
  const nlohmann::json* found = node_->find(key);
  if (found == nullptr) return out;
  if (!found->is_array()) refuse(key, "a list of numbers");
  for (const auto& item : *found) {
    if (!item.is_number()) refuse(key, "a list of numbers");
    out.push_back(item.get<double>());
  }
  return out;
}

Config Config::section(const std::string& key) const {
  const nlohmann::json* found = node_->find(key);
  if (found == nullptr || !found->is_object()) refuse(key, "an object");
  auto node = std::make_shared<Node>();
  node->value = *found;
  return Config(std::move(node), origin_ + ": " + key);
}

Activation read_activation(const Config& config, const std::string& key, const std::string& fallback) {
  const std::string name = config.text(key, fallback);
  if (name == "silu" || name == "swish") return Activation::kSilu;
  if (name == "gelu" || name == "gelu_python") return Activation::kGeluErf;
  if (name == "gelu_new" || name == "gelu_pytorch_tanh" || name == "gelu_python_tanh" || name == "gelu_accurate" ||
      name == "gelu_fast")
    return Activation::kGeluTanh;
  if (name == "relu") return Activation::kRelu;
  config.refuse(key, "silu, swish, gelu, gelu_new, gelu_pytorch_tanh or relu");
}

std::string config_dtype(const Config& config) {
  return config.has("torch_dtype") ? config.text("torch_dtype", "") : config.text("dtype", "");
}

std::optional<QuantFormat> read_quantisation(const Config& config) {
  if (!config.has("quantization_config")) return std::nullopt;
  return read_quantisation_section(config.section("quantization_config"), "");
}

QuantFormat read_quantisation_section(const Config& section, const std::string& method) {
  QuantFormat out;
  out.name = section.text("quant_method", method);
  const int64_t group = section.integer(section.has("q_group_size") ? "q_group_size" : "group_size", 128, -1, 1 << 20);
  if (group == 0) section.refuse("group_size", "-1 or the number of columns of a group");
  out.group = std::max<int64_t>(group, 0);
  out.bits = static_cast<int>(section.integer(section.has("w_bit") ? "w_bit" : "bits", 4, 1, 32));
  if (out.name == "gptq") {
    if (out.bits != 2 && out.bits != 3 && out.bits != 4 && out.bits != 8) section.refuse("bits", "2, 3, 4 or 8");
    const std::string format = section.text("checkpoint_format", "gptq");
    if (format != "gptq" && format != "gptq_v2") section.refuse("checkpoint_format", "gptq or gptq_v2");
    out.zeros_less_one = format == "gptq";
    out.ordered = section.flag("desc_act", false);
    return out;
  }
  if (out.name == "awq") {
    out.kind = QuantFormat::Kind::kAwq;
    if (out.bits != 4) section.refuse(section.has("w_bit") ? "w_bit" : "bits", "4");
    const std::string version = section.text("version", "gemm");
    if (version != "gemm" && version != "GEMM") section.refuse("version", "gemm, the layout that is read");
    return out;
  }
  if (out.name == "bitsandbytes") {
    if (section.flag("load_in_4bit", false)) section.refuse("load_in_4bit", "false; nf4 and fp4 are not read");
    out.kind = QuantFormat::Kind::kRows8;
    return out;
  }
  if (out.name == "mxfp4") {
    out.kind = QuantFormat::Kind::kMxfp4;
    out.bits = 8;
    out.group = 32;
    return out;
  }
  const bool compressed = out.name == "compressed-tensors";
  if (compressed && section.text("format", "") != "float-quantized")
    section.refuse("format", "float-quantized, the layout of compressed-tensors that is read");
  if (out.name == "fp8" || out.name == "fbgemm_fp8" || compressed) {
    out.kind = QuantFormat::Kind::kFp8;
    out.bits = 8;
    const auto read_block = [&out](const Config& of, const char* key) {
      const std::vector<double> block = of.numbers(key);
      const auto whole = [](double n) { return n >= 1 && n <= 1 << 20 && n == std::floor(n); };
      if (block.size() != 2 || !whole(block[0]) || !whole(block[1])) of.refuse(key, "two sizes");
      out.block_rows = static_cast<int64_t>(block[0]);
      out.block_cols = static_cast<int64_t>(block[1]);
    };
    if (section.has("weight_block_size")) read_block(section, "weight_block_size");
    if (compressed && section.is_object("config_groups")) {
      const Config groups = section.section("config_groups");
      if (groups.is_object("group_0") && groups.section("group_0").is_object("weights")) {
        const Config weights = groups.section("group_0").section("weights");
        if (weights.has("block_structure")) read_block(weights, "block_structure");
      }
    }
    return out;
  }
  section.refuse("quant_method", "gptq, awq, bitsandbytes (int8), fp8, fbgemm_fp8, mxfp4 or compressed-tensors");
}

}  // namespace sluice
