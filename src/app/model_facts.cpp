// SPDX-License-Identifier: Apache-2.0
#include "app/model_facts.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"

namespace sluice {

std::vector<std::string> served_names(const Settings& settings, const ServedModel& model) {
  if (!settings.has("served-model-name")) return {model.name};
  std::vector<std::string> names(1);
  for (const char c : settings.text("served-model-name")) {
    if (c == ',')
      names.emplace_back();
    else
      names.back() += c;
  }
  for (const std::string& name : names)
    if (name.empty() || name.front() == ' ' || name.back() == ' ')
      throw Error(fmt::format("served-model-name (from {}): expected names with commas between them, found '{}'",
                              settings.origin("served-model-name"), settings.text("served-model-name")));
  return names;
}

ModelFacts read_model_facts(const ServedModel& model, const std::vector<std::string>& names,
                            const ExecutorInfo& executor) {
  ModelFacts facts;
  facts.id = names[0];
  facts.aliases.assign(names.begin() + 1, names.end());
  facts.root = model.name;
  const std::string base = std::filesystem::path(model.name).filename().string();
  if (base != facts.id) facts.aliases.push_back(base);
  if (model.name != facts.id) facts.aliases.push_back(model.name);
  facts.dtype = executor.model.dtype;
  facts.max_context = executor.limits.max_context;
  facts.family = executor.model.family;
  facts.parameters = executor.model.parameters;
  facts.weight_bytes = static_cast<int64_t>(executor.model.weight_bytes);
  if (!model.null && std::filesystem::is_directory(model.source.folder)) {  // not a .nemo archive
    uintmax_t bytes = 0;
    for (const auto& entry : std::filesystem::directory_iterator(model.source.folder))
      if (entry.is_regular_file() && entry.path().extension() == ".safetensors") bytes += entry.file_size();
    if (bytes > 0) facts.weight_bytes = static_cast<int64_t>(bytes);
  }
  const std::filesystem::path path = model.source.folder / "generation_config.json";
  if (model.null || model.source.folder.empty() || !std::filesystem::exists(path)) return facts;
  const auto config = nlohmann::json::parse(read_file(path), nullptr, false);
  if (!config.is_object()) throw Error(fmt::format("{}: expected a JSON object", path.string()));
  const auto number = [&](const char* name, double otherwise, double low, double high) {
    const auto found = config.find(name);
    if (found == config.end() || found->is_null()) return otherwise;
    if (!found->is_number() || found->get<double>() < low || found->get<double>() > high)
      throw Error(fmt::format("{}: {}: expected a number from {} to {}, found {}", path.string(), name, low, high,
                              found->dump()));
    return found->get<double>();
  };
  facts.temperature = number("temperature", 1.0, 0, 1e6);
  facts.top_p = number("top_p", 1.0, 0, 1);
  facts.top_k = static_cast<int32_t>(number("top_k", 0, 0, 1e9));
  facts.repetition_penalty = number("repetition_penalty", 1.0, 0, 1e6);
  return facts;
}

}  // namespace sluice
