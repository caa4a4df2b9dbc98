// SPDX-License-Identifier: Apache-2.0
#include "chat/parameters.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>

#include "base/error.h"
#include "base/file.h"
#include "engine/grammar_fields.h"

namespace sluice {
namespace {

enum class Kind { kNumber, kInteger, kTexts, kFormat };
struct Row {
  const char* name;
  const char* other;  // Ollama's name
  Kind kind;
  double low, high;
};
constexpr double kMost = 1e15;
constexpr Row kRows[] = {
    {"temperature", "", Kind::kNumber, 0, 1e6},
    {"top_k", "", Kind::kInteger, 0, 1 << 24},
    {"top_p", "", Kind::kNumber, 1e-6, 1},
    {"min_p", "", Kind::kNumber, 0, 1},
    {"repetition_penalty", "repeat_penalty", Kind::kNumber, 1e-6, 1e6},
    {"presence_penalty", "", Kind::kNumber, -2, 2},
    {"frequency_penalty", "", Kind::kNumber, -2, 2},
    {"max_tokens", "num_predict", Kind::kInteger, 1, 1 << 24},
    {"seed", "", Kind::kInteger, 0, kMost},
    {"stop", "", Kind::kTexts, 0, 0},
    {"format", "", Kind::kFormat, 0, 0},
};
constexpr const char* kFormatField = "response_format";

const Row& row_of(std::string_view name) {
  std::string wanted(name);
  std::replace(wanted.begin(), wanted.end(), '-', '_');
  for (const Row& row : kRows)
    if (wanted == row.name || (*row.other != '\0' && wanted == row.other)) return row;
  throw Error(fmt::format("{} is no parameter; there are {}", name, fmt::join(ChatParameters::names(), ", ")));
}

std::string field_of(const Row& row) { return row.kind == Kind::kFormat ? kFormatField : row.name; }

template <class T>
std::optional<T> read(std::string_view text) {
  T value{};
  const auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (failed != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

// "json", or a file that holds a JSON schema.
Value read_format(std::string_view text) {
  Dict out;
  if (text == "json") {
    out.set("type", "json_object");
    return out;
  }
  Value schema;
  try {
    schema = Value::parse_json(read_file(std::string(text)));
  } catch (const RequestError& error) {
    throw Error(fmt::format("format: {} is not JSON: {}", text, error.what()));
  } catch (const Error& error) {
    throw Error(fmt::format("format: expected json or a file with a JSON schema; {}", error.what()));
  }
  Dict named;
  named.set("name", "answer");
  named.set("schema", std::move(schema));
  out.set("type", "json_schema");
  out.set("json_schema", Value(std::move(named)));
  return out;
}

}  // namespace

std::vector<std::string> ChatParameters::names() {
  std::vector<std::string> out;
  for (const Row& row : kRows) out.emplace_back(row.name);
  return out;
}

void ChatParameters::set(std::string_view name, std::string_view text) {
  const Row& row = row_of(name);
  const auto refuse = [&](const char* what) {
    throw Error(fmt::format("{}: expected {} from {} to {}, found \"{}\"", row.name, what, row.low, row.high, text));
  };
  switch (row.kind) {
    case Kind::kNumber: {
      const auto value = read<double>(text);
      if (!value || !std::isfinite(*value) || *value < row.low || *value > row.high) refuse("a number");
      values_.set(row.name, *value);
      break;
    }
    case Kind::kInteger: {
      const auto value = read<int64_t>(text);
      const auto number = static_cast<double>(value.value_or(-1));
      if (!value || number < row.low || number > row.high) refuse("a whole number");
      values_.set(row.name, *value);
      break;
    }
    case Kind::kTexts: {
      if (text.empty()) throw Error("stop: expected a text");
      List texts;
      if (const Value* known = values_.find(row.name)) texts = known->as_list();
      texts.emplace_back(text);
      values_.set(row.name, Value(std::move(texts)));
      break;
    }
    case Kind::kFormat:
      values_.set(kFormatField, read_format(text));
      break;
  }
}

void ChatParameters::unset(std::string_view name) {
  const std::string field = field_of(row_of(name));
  Dict rest;
  for (const auto& [known, value] : values_.entries())
    if (known != field) rest.set(known, value);
  values_ = std::move(rest);
}

void ChatParameters::apply(GenerateRequest& request) const {
  SamplingParams& s = request.sampling;
  for (const auto& [name, value] : values_.entries()) {
    const auto number = [&value = value] { return static_cast<float>(value.as_float()); };
    if (name == "temperature") {
      s.greedy = number() < 1e-5f;
      s.temperature = s.greedy ? 1.0f : number();
    } else if (name == "top_k") {
      s.top_k = static_cast<int32_t>(value.as_int());
    } else if (name == "top_p") {
      s.top_p = number();
    } else if (name == "min_p") {
      s.min_p = number();
    } else if (name == "repetition_penalty") {
      s.repetition_penalty = number();
    } else if (name == "presence_penalty") {
      s.presence_penalty = number();
    } else if (name == "frequency_penalty") {
      s.frequency_penalty = number();
    } else if (name == "max_tokens") {
      request.max_new_tokens = static_cast<int32_t>(value.as_int());
    } else if (name == "seed") {
      s.seed = static_cast<uint64_t>(value.as_int());
      request.has_seed = true;
    } else if (name == "stop") {
      for (const Value& text : value.as_list()) request.stop.push_back(text.as_string());
    } else {
      read_grammar_field(name, value, request);
    }
  }
}

std::string ChatParameters::text() const {
  std::string out;
  for (const auto& [name, value] : values_.entries())
    out += fmt::format("  {:<20} {}\n", name == kFormatField ? "format" : name, value.dump_json());
  return out;
}

}  // namespace sluice
