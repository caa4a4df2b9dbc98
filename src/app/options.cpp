// SPDX-License-Identifier: Apache-2.0
#include "app/options.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <cstdlib>

#include "app/idle_options.h"
#include "app/settings_table.h"
#include "base/error.h"
#include "base/log.h"
#include "cluster/launch.h"
#include "hub/cache.h"
#include "weights/foreign.h"

namespace sluice {
namespace {
// Variables of other servers that users' scripts set and that need no counterpart here.
constexpr std::pair<const char*, const char*> kWithoutEffect[] = {
    {"WAITING_SERVED_RATIO", "every step mixes prefill and decode"},
    {"MAX_WAITING_TOKENS", "every step mixes prefill and decode"},
    {"VALIDATION_WORKERS", "each connection validates its own request"},
    {"SHARD_UDS_PATH", "ranks speak over TCP"},
    {"DISABLE_CUSTOM_KERNELS", "there are no others"},
};

void require_downloaded(const Settings& settings, const std::string& model) {
  if (is_typed(settings, "revision")) refuse_revision(settings.text("revision"), model);
}
}  // namespace

Settings make_settings(const std::vector<Topic>& topics) {
  std::vector<Setting> chosen;
  for (const SettingRow& row : settings_table()) {
    if (std::find(topics.begin(), topics.end(), row.topic) != topics.end()) chosen.push_back(row.setting);
  }
  return Settings(std::move(chosen), process_environment());
}

void set_model(Settings& settings, const std::string& model) {
  if (is_typed(settings, "model") && settings.text("model") != model)
    throw Error(fmt::format("the model is {} and --model says {}; give one of them", model, settings.text("model")));
  settings.set("model", model, "argument");
}

void add_flags(CLI::App& app, Settings& settings, const std::vector<std::string_view>& without) {
  for (const Setting& setting : settings.table()) {
    if (std::ranges::find(without, setting.name) != without.end()) continue;
    const std::string name = setting.name;
    const std::string help = fmt::format("{} [{}]", setting.help, fmt::join(setting.variables, ", "));
    CLI::Option* option = app.add_option_function<std::string>(
        "--" + name, [&settings, name](const std::string& value) { settings.set(name, value, "--" + name); }, help);
    option->type_name(setting.fallback.empty() ? "TEXT" : "TEXT=" + setting.fallback);
  }
}

void check_settings(const Settings& settings) {
  settings.check_values();
  for (const auto& [variable, reason] : kWithoutEffect) {
    if (std::getenv(variable) != nullptr) {
      log_warning(fmt::format("{} is set and has no effect here: {}", variable, reason));
    }
  }
}

std::string quantize_setting(const Settings& settings) {
  if (!settings.has("quantize")) return "";
  const std::string& name = settings.word("quantize");
  if (name == "none") return "";
  if (name == "bitsandbytes") {
    log_info(
        "quantize: bitsandbytes stands for int8: rows of weights are rounded to 8 bits, and so is every group of 64 "
        "activations, which keeps outliers apart where LLM.int8 computes whole columns in 16 bits");
    return "int8";
  }
  return name;
}

std::optional<double> null_rate(const std::string& model) {
  if (model == "null") return 0;
  if (!model.starts_with("null:")) return std::nullopt;
  const char *text = model.c_str() + 5, *end = model.c_str() + model.size();
  double rate = 0;
  const auto [stop, failure] = std::from_chars(text, end, rate);
  if (failure != std::errc() || stop != end || !(rate >= 0.01 && rate <= 1e6))
    throw Error(fmt::format("model: after null: expected steps per second, 0.01 to 1000000, found \"{}\"", text));
  return rate;
}

ModelSource model_source(const Settings& settings) {
  ModelSource source;
  source.dtype = settings.word("dtype");
  source.quantize = quantize_setting(settings);
  const bool shape = settings.has("random-init"), both = shape && settings.has("model");
  const bool shape_typed = is_typed(settings, "random-init");
  const bool model_typed = is_typed(settings, "model") || settings.origin("model") == "argument";
  if (both && shape_typed == model_typed)
    throw Error(fmt::format("--random-init (from {}) and a model (from {}) exclude each other",
                            settings.origin("random-init"), settings.origin("model")));
  if (shape && (!both || shape_typed)) {
    source.random_shape = settings.text("random-init");
    require_downloaded(settings, source.random_shape);
    return source;
  }
  if (!settings.has("model")) {
    throw Error("no model: give --model FOLDER (or MODEL_ID in the environment), or --random-init SHAPE");
  }
  source.folder = settings.text("model");
  std::error_code error;
  const bool here = null_rate(source.folder) || is_foreign(source.folder);
  if (here || std::filesystem::is_directory(source.folder, error)) require_downloaded(settings, settings.text("model"));
  if (here) return source;
  if (!std::filesystem::is_directory(source.folder, error))  // a folder needs no place for models
    source.folder =
        require_model(read_hub_settings(process_environment()), settings.text("model"), settings.text("revision"));
  if (!std::filesystem::is_regular_file(source.folder / "config.json")) {
    throw Error(fmt::format(
        "model (from {}): {} holds no config.json; expected a folder with a checkpoint in Hugging Face layout "
        "(config.json, *.safetensors or *.bin, tokenizer.json), a .nemo file or a FasterTransformer folder",
        settings.origin("model"), source.folder.string()));
  }
  return source;
}

GenerateRequest default_request(const Settings& settings) {
  GenerateRequest request;
  request.max_new_tokens = static_cast<int32_t>(settings.integer("max-new-tokens"));
  SamplingParams& s = request.sampling;
  const double temperature = settings.number("temperature");
  s.greedy = temperature < 1e-5;
  if (!s.greedy) s.temperature = static_cast<float>(temperature);
  s.top_k = static_cast<int32_t>(settings.integer("top-k"));
  s.top_p = static_cast<float>(settings.number("top-p"));
  s.repetition_penalty = static_cast<float>(settings.number("repetition-penalty"));
  return request;
}

}  // namespace sluice
