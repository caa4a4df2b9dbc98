// SPDX-License-Identifier: Apache-2.0
#include "text/model_files.h"

#include <fmt/format.h>

#include "base/error.h"
#include "base/file.h"

namespace sluice {

Value parse_object(std::string_view text, const std::string& origin) {
  try {
    Value value = Value::parse_json(text);
    if (!value.is_dict()) throw Error(fmt::format("{}: expected a JSON object", origin));
    return value;
  } catch (const RequestError& error) {
    throw Error(fmt::format("{}: {}", origin, error.what()));
  }
}

Value read_tokenizer_config(const std::filesystem::path& model_dir) {
  Dict merged;
  for (const char* name : {"tokenizer_config.json", "special_tokens_map.json"}) {
    const std::filesystem::path file = model_dir / name;
    if (!std::filesystem::exists(file)) continue;
    const Value content = parse_object(read_file(file), file.string());
    for (const auto& [key, value] : content.as_dict().entries()) {
      const Value* known = merged.find(key);
      if (known == nullptr || known->is_null()) merged.set(key, value);
    }
  }
  return Value(std::move(merged));
}

std::string named_token(const Value& config, std::string_view name) {
  const Value* value = config.find(name);
  if (value != nullptr && value->is_dict()) value = value->find("content");
  return value != nullptr && value->is_string() ? value->as_string() : std::string();
}

}  // namespace sluice
