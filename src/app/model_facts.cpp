// SPDX-License-Identifier: Apache-2.0
#include "app/model_facts.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"

namespace sluice {

ModelFacts read_model_facts(const ServedModel& model, const std::string& id, const ExecutorInfo& executor) {
  ModelFacts facts;
  facts.id = id;
  facts.root = model.name;
  const std::string base = std::filesystem::path(model.name).filename().string();
  if (base != id) facts.aliases.push_back(base);
  if (model.name != id) facts.aliases.push_back(model.name);
  facts.dtype = executor.model.dtype;
  facts.max_context = executor.limits.max_context;
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
