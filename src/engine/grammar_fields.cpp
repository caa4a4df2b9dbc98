// SPDX-License-Identifier: Apache-2.0
#include "engine/grammar_fields.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"

namespace sluice {
namespace {

using Kind = GrammarSpec::Kind;

constexpr std::string_view kNames[] = {"response_format", "guided_json",        "guided_regex", "guided_choice",
                                       "guided_grammar",  "structured_outputs", "grammar",      "format"};

[[noreturn]] void refuse(std::string_view name, std::string_view expected, const Value& found) {
  throw RequestError(RequestError::Kind::kValidation,
                     fmt::format("{}: expected {}, found {}", name, expected, found.dump_compact().substr(0, 80)),
                     std::string(name));
}

const std::string& text_of(std::string_view name, const Value* value) {
  if (value == nullptr || !value->is_string()) refuse(name, "a string", value ? *value : Value());
  return value->as_string();
}

// A schema is an object, true or false, or the text of one.
GrammarSpec schema_of(std::string_view name, const Value* value) {
  if (value == nullptr) refuse(name, "a JSON schema", Value());
  if (value->is_string()) return {Kind::kJsonSchema, value->as_string()};
  if (!value->is_dict() && !value->is_bool()) refuse(name, "a JSON schema", *value);
  return {Kind::kJsonSchema, value->dump_compact()};
}

GrammarSpec choices_of(std::string_view name, const Value* value) {
  if (value == nullptr || !value->is_list() || value->as_list().empty())
    refuse(name, "a list of strings", value ? *value : Value());
  for (const Value& item : value->as_list())
    if (!item.is_string()) refuse(name, "a list of strings", *value);
  return {Kind::kChoice, value->dump_compact()};
}

// {"type", ...} of OpenAI's response_format and TGI's grammar, whose clients mix the two.
GrammarSpec typed(std::string_view name, const Value& value) {
  if (!value.is_dict()) refuse(name, "an object with a type", value);
  const std::string& type = text_of(name, value.find("type"));
  const Value *inner = value.find("json_schema"), *given = value.find("value");
  if (type == "text") return {};
  if (type == "regex") return {Kind::kRegex, text_of(name, given)};
  if (type == "json_object" && given == nullptr && inner == nullptr) return {Kind::kJsonObject, {}};
  if (type == "json_schema" || type == "json" || type == "json_object") {
    const Value* schema = inner != nullptr ? inner : given;
    // Either the schema, or it under the name "schema" beside "name" and "strict".
    if (schema != nullptr && schema->find("schema") != nullptr && schema->find("type") == nullptr &&
        schema->find("properties") == nullptr)
      schema = schema->find("schema");
    return schema_of(name, schema);
  }
  refuse(name, "the type text, json_object, json_schema, json or regex", value);
}

GrammarSpec structured(std::string_view name, const Value& value) {
  if (!value.is_dict()) refuse(name, "an object", value);
  GrammarSpec spec;
  for (const auto& [key, inner] : value.as_dict().entries()) {
    if (inner.is_null() || key == "disable_any_whitespace" || key == "disable_additional_properties") {
      if (inner.is_bool() && inner.as_bool()) refuse(name, key + " to be absent", inner);
      continue;
    }
    if (key == "json_object" && inner.is_bool() && !inner.as_bool()) continue;
    if (spec.kind != Kind::kNone) refuse(name, "one of json, regex, choice, grammar, json_object", value);
    if (key == "json") {
      spec = schema_of(name, &inner);
    } else if (key == "regex") {
      spec = {Kind::kRegex, text_of(name, &inner)};
    } else if (key == "choice") {
      spec = choices_of(name, &inner);
    } else if (key == "grammar") {
      spec = {Kind::kEbnf, text_of(name, &inner)};
    } else if (key == "json_object") {
      spec = {Kind::kJsonObject, {}};
    } else {
      refuse(name, "json, regex, choice, grammar or json_object", value);
    }
  }
  return spec;
}

GrammarSpec spec_of(std::string_view name, const Value& value) {
  if (value.is_null() || (value.is_string() && value.as_string().empty())) return {};
  if (name == "response_format" || name == "grammar") return typed(name, value);
  if (name == "structured_outputs") return structured(name, value);
  if (name == "guided_json") return schema_of(name, &value);
  if (name == "guided_regex") return {Kind::kRegex, text_of(name, &value)};
  if (name == "guided_choice") return choices_of(name, &value);
  if (name == "guided_grammar") return {Kind::kEbnf, text_of(name, &value)};
  if (value.is_string() && value.as_string() == "json") return {Kind::kJsonObject, {}};
  if (value.is_string()) refuse(name, "\"json\" or a JSON schema", value);
  return schema_of(name, &value);
}

}  // namespace

std::span<const std::string_view> grammar_field_names() { return kNames; }

bool read_grammar_field(std::string_view name, const Value& value, GenerateRequest& request) {
  if (std::ranges::find(kNames, name) == std::end(kNames)) return false;
  GrammarSpec spec = spec_of(name, value);
  if (spec.kind == Kind::kNone) return true;
  if (request.grammar.kind != Kind::kNone)
    throw RequestError(RequestError::Kind::kValidation,
                       fmt::format("{}: the answer is already constrained by another field; give one", name),
                       std::string(name));
  request.grammar = std::move(spec);
  return true;
}

GrammarSpec choice_grammar(const std::vector<std::string>& texts) {
  List list;
  for (const std::string& text : texts) list.push_back(Value(text));
  return {Kind::kChoice, Value(std::move(list)).dump_compact()};
}

}  // namespace sluice
