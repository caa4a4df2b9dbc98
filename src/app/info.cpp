// SPDX-License-Identifier: Apache-2.0
// sluice info [MODEL]: every setting with value and origin; with a model, what it is and what it needs.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>

#include "app/options.h"
#include "app/served_model.h"
#include "app/verbs.h"

namespace sluice {
namespace {

struct InfoOptions {
  Settings settings = make_settings({Topic::kModel, Topic::kRun, Topic::kServer, Topic::kSampling});
  std::string model;
  bool families = false;
};

void print_model(const Settings& settings) {
  const ServedModel served = read_served_model(settings);
  if (served.null) return fmt::print("{:<20} null: fixed tokens, no compute\n", "model");
  const ModelInfo& m = served.info;
  const auto row = [](const char* name, const std::string& value) { fmt::print("{:<20} {}\n", name, value); };
  row("model", served.name);
  row("family", m.family);
  row("shape", fmt::format("{} layers, width {}, {} heads, {} key-value heads of {}, MLP {}, vocabulary {}", m.n_layers,
                           m.d_model, m.n_heads, m.n_kv_heads, m.head_dim, m.d_ff, m.vocab));
  row("parameters", fmt::format("{:.3g} million", static_cast<double>(m.parameters) * 1e-6));
  const auto width = static_cast<int64_t>(dtype_bytes(parse_dtype(m.dtype)));
  row("weights", fmt::format("{:.3f} GB as {}", static_cast<double>(m.parameters * width) * 1e-9, m.dtype));
  row("cache", fmt::format("{} bytes per token", 2 * m.n_layers * m.n_kv_heads * m.head_dim * width));
  row("context", fmt::format("{} tokens", m.max_positions));
  std::string eos;
  for (const int32_t id : m.eos)
    eos += fmt::format("{}{} '{}'", eos.empty() ? "" : ", ", id, served.tokenizer->token_text(id));
  row("end of text", eos.empty() ? "none" : eos);
}

int run(InfoOptions& options) {
  if (options.families) {
    for (const std::string& family : model_families()) fmt::print("{}\n", family);
    return 0;
  }
  if (!options.model.empty()) options.settings.set("model", options.model, "argument");
  if (options.settings.has("model") || options.settings.has("random-init")) {
    print_model(options.settings);
    fmt::print("\n");
  }
  size_t widest = 0;
  for (const Setting& setting : options.settings.table())
    widest = std::max(widest, options.settings.text(setting.name).size());
  widest = std::clamp<size_t>(widest, 5, 40);
  fmt::print("{:<26} {:<{}} {}\n", "setting", "value", widest, "origin");
  for (const Setting& setting : options.settings.table()) {
    const SettingValue& value = options.settings.at(setting.name);
    fmt::print("{:<26} {:<{}} {}\n", setting.name, value.value.empty() ? "-" : value.value, widest, value.origin);
  }
  return 0;
}

}  // namespace

void add_info(CLI::App& app, int& exit_code) {
  auto options = std::make_shared<InfoOptions>();
  CLI::App* verb =
      app.add_subcommand("info", "Print every setting, its value and where it came from; with a model, what it is.");
  verb->add_option("MODEL", options->model, "Checkpoint folder.");
  verb->add_flag("--families", options->families, "List the model families and their architectures.");
  add_flags(*verb, options->settings);
  verb->callback([options, &exit_code] { exit_code = run(*options); });
}

}  // namespace sluice
