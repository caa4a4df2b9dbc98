// SPDX-License-Identifier: Apache-2.0
// sluice info [MODEL]: every setting with value and origin; with a model, what it is and what it needs.
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>

#include "app/options.h"
#include "app/served_model.h"
#include "app/verb.h"
#include "app/verbs.h"
#include "base/terminal.h"
#include "weights/checkpoint.h"
#include "weights/packed.h"

namespace sluice {
namespace {

struct InfoOptions {
  Settings settings = make_settings({Topic::kModel, Topic::kRun, Topic::kServer, Topic::kSampling});
  std::string model;
  bool families = false;
};

// Ranks over which heads, MLP and vocabulary divide, and those that need padding.
std::string fits(const ModelInfo& m) {
  std::string even, padded;
  for (int64_t tp = 1; tp <= 16; tp *= 2) {
    const bool heads = tp <= m.n_kv_heads ? m.n_kv_heads % tp == 0 : tp % m.n_kv_heads == 0;
    const bool whole = heads && m.n_heads % tp == 0 && m.d_ff % tp == 0;
    if (tp > m.n_heads) break;
    std::string& list = whole ? even : padded;
    list += fmt::format("{}{}", list.empty() ? "" : ", ", tp);
  }
  return even + (padded.empty() ? "" : "; with padded heads or columns " + padded);
}

void print_model(const Settings& settings) {
  const ServedModel served = read_served_model(settings, true);
  if (served.null) return fmt::print("{:<20} null: fixed tokens, no compute\n", "model");
  const ModelInfo& m = served.info;
  const auto row = [](const char* name, const std::string& value) {
    fmt::print("{}\n", fitted(fmt::format("{:<20} {}", name, value), STDOUT_FILENO));
  };
  row("model", served.name);
  row("family", m.family);
  row("shape", fmt::format("{} layers, width {}, {} heads, {} key-value heads of {}, MLP {}, vocabulary {}", m.n_layers,
                           m.d_model, m.n_heads, m.n_kv_heads, m.head_dim, m.d_ff, m.vocab));
  row("parameters", fmt::format("{:.3g} million", static_cast<double>(m.parameters) * 1e-6));
  const auto width = static_cast<int64_t>(dtype_bytes(parse_dtype(m.dtype)));
  row("weights", fmt::format("{:.3f} GB as {}{}", static_cast<double>(m.parameters * width) * 1e-9, m.dtype,
                             m.quantised.empty()              ? ""
                             : m.quantised.starts_with("fp8") ? ", on GPUs less with products in " + m.quantised
                                                              : ", less with products in " + m.quantised));
  const auto linear = static_cast<double>(m.linear_parameters);
  row("read per token",
      fmt::format("{:.3f} GB, {:.3f} as int8, {:.3f} as int4", linear * static_cast<double>(width) * 1e-9,
                  linear * 1e-9, linear * (0.5 + 3.0 / kInt4Group) * 1e-9));
  row("cache", fmt::format("{} bytes per token{}", 2 * m.n_layers * m.n_kv_heads * m.head_dim * width,
                           m.decoder_start >= 0 ? " of the answer, and as many of the prompt" : ""));
  row("context", fmt::format("{} tokens", m.max_positions));
  if (const auto layout = read_packed_layout(served.source.folder)) {
    uint64_t bytes = 0;
    for (const PackedFile& file : layout->files) bytes += file.bytes;
    row("packed", fmt::format("for {} ({}), of {}", layout->describe(), layout->packing, layout->source));
    row("files",
        fmt::format("{}, one for each rank, {:.3f} GB", layout->files.size(), static_cast<double>(bytes) * 1e-9));
  } else if (!served.source.folder.empty()) {
    const Checkpoint files = Checkpoint::open(served.source.folder, "");
    uint64_t bytes = 0;
    for (const File& file : files.files()) bytes += file.size();
    row("files", fmt::format("{} with {} tensors, {:.3f} GB", files.files().size(), files.tensors().size(),
                             static_cast<double>(bytes) * 1e-9));
  }
  row("chat template", served.chat == nullptr ? "none" : fmt::format("{}", fmt::join(served.chat->names(), ", ")));
  if (served.tokenizer == nullptr) {
    row("tokenizer", served.no_tokenizer);
  } else {
    std::string special;
    for (const auto& [name, token] : served.tokenizer->special_tokens())
      special += fmt::format("{}{} '{}'", special.empty() ? "" : ", ", name, token);
    row("special tokens", special.empty() ? "none" : special);
  }
  if (const auto layout = read_packed_layout(served.source.folder)) {
    row("tensor parallel", fmt::format("{}, as it is packed", layout->tp));
    row("pipeline stages", fmt::format("{}, as it is packed", layout->pp));
  } else {
    row("tensor parallel", fits(m));
    row("pipeline stages", fmt::format("1 to {}", m.n_layers));
  }
  std::string eos;
  for (const int32_t id : m.eos)
    eos += fmt::format("{}{} '{}'", eos.empty() ? "" : ", ", id,
                       served.tokenizer == nullptr ? "?" : served.tokenizer->token_text(id));
  row("end of text", eos.empty() ? "none" : eos);
}

int run(InfoOptions& options) {
  if (options.families) {
    for (const FamilyNames& family : family_names())
      fmt::print("{}\n",
                 fitted(fmt::format("{:<14} {}", family.name, fmt::join(family.architectures, " ")), STDOUT_FILENO));
    return 0;
  }
  if (!options.model.empty()) set_model(options.settings, options.model);
  if (options.settings.has("model") || options.settings.has("random-init")) {
    print_model(options.settings);
    fmt::print("\n");
  }
  size_t widest = 0;
  for (const Setting& setting : options.settings.table())
    widest = std::max(widest, options.settings.text(setting.name).size());
  widest = std::clamp<size_t>(widest, 5, 40);
  constexpr size_t kBeside = 27 + 1 + 10;  // the name, and most origins
  if (::isatty(STDOUT_FILENO) == 1)
    widest = std::clamp<size_t>(terminal_columns(STDOUT_FILENO), kBeside + 5, kBeside + widest) - kBeside;
  const auto line = [&](const std::string& name, const std::string& value, const std::string& origin) {
    fmt::print("{}\n", fitted(fmt::format("{:<26} {:<{}} {}", name, value, widest, origin), STDOUT_FILENO));
  };
  line("setting", "value", "origin");
  for (const Setting& setting : options.settings.table()) {
    const SettingValue& value = options.settings.at(setting.name);
    line(setting.name, value.value.empty() ? "-" : value.value, value.origin);
  }
  std::fflush(stdout);
  options.settings.check_values();
  return 0;
}

}  // namespace

void add_info(CLI::App& app, int& exit_code) {
  const auto [verb, options] = add_verb<InfoOptions>(
      app, "info", "Print every setting, its value and where it came from; with a model, what it is.", exit_code, run);
  verb->add_option("MODEL", options->model, "Checkpoint folder.");
  verb->add_flag("--families", options->families, "List the model families and their architectures.")
      ->excludes("MODEL");
  add_flags(*verb, options->settings);
}

}  // namespace sluice
