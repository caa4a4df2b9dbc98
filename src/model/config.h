// SPDX-License-Identifier: Apache-2.0
// One JSON object of a checkpoint (config.json, generation_config.json, or a section of them), read by typed keys.
// Every refusal is an Error that names the file, the key, what was expected and what was found.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "backend/backend.h"
#include "weights/quantised.h"

namespace sluice {

class Config {
 public:
  static Config read(const std::filesystem::path& file);
  static Config parse(std::string_view json, std::string origin);

  bool contains(const std::string& key) const;  // also when it is null
  bool has(const std::string& key) const;       // present and not null
  // The fallback stands for an absent or null key.
  int64_t integer(const std::string& key, int64_t fallback, int64_t low, int64_t high) const;
  double number(const std::string& key, double fallback) const;
  double number(const std::string& key) const;  // refuses an absent key
  bool flag(const std::string& key, bool fallback) const;
  std::string text(const std::string& key, const std::string& fallback) const;
  std::vector<std::string> texts(const std::string& key) const;  // empty when absent
  std::vector<int64_t> integers(const std::string& key) const;   // a number or a list; empty when absent
  std::vector<double> numbers(const std::string& key) const;     // a list; empty when absent
  Config section(const std::string& key) const;                  // an object
  bool is_object(const std::string& key) const;

  // Throws Error: "FILE: KEY is FOUND, expected EXPECTED".
  [[noreturn]] void refuse(const std::string& key, const std::string& expected) const;
  const std::string& origin() const { return origin_; }

 private:
  struct Node;
  Config(std::shared_ptr<const Node> node, std::string origin) : node_(std::move(node)), origin_(std::move(origin)) {}
  std::shared_ptr<const Node> node_;
  std::string origin_;
};

// hidden_act by Hugging Face's names.
Activation read_activation(const Config& config, const std::string& key, const std::string& fallback);
// torch_dtype or dtype as the config writes it; empty when neither is there.
std::string config_dtype(const Config& config);
// How the layers of a quantised checkpoint are stored; none where quantization_config is absent. Throws Error naming
// the method where it is not read.
std::optional<QuantFormat> read_quantisation(const Config& config);
// The same from the section itself, or from the quantize_config.json (GPTQ) or quant_config.json (AWQ) of older
// checkpoints, which do not name their method.
QuantFormat read_quantisation_section(const Config& section, const std::string& method);

}  // namespace sluice
