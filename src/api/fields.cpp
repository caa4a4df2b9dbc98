// SPDX-License-Identifier: Apache-2.0
#include "api/fields.h"

#include <fmt/format.h>

#include "base/error.h"

namespace sluice {

using Kind = JsonView::Kind;

void invalid_field(std::string name, const std::string& text) {
  throw RequestError(RequestError::Kind::kValidation, text, std::move(name));
}

void wrong_type(const std::string& name, const JsonView& found, std::string_view expected) {
  invalid_field(name, fmt::format("{}: expected {}, found {}", name, expected, found.describe()));
}

namespace {

template <class Get>
auto read(const JsonView& body, const std::string& name, std::string_view expected, Get get) {
  JsonView node = body[name];
  auto value = node.unset() ? decltype(get(node)){} : get(node);
  if (!node.unset() && !value) wrong_type(name, node, expected);
  return value;
}

}  // namespace

std::optional<double> Fields::number(const std::string& name) const {
  return read(body, name, "a number", [](const JsonView& n) { return n.number(); });
}

std::optional<int64_t> Fields::integer(const std::string& name) const {
  return read(body, name, "an integer", [](const JsonView& n) { return n.integer(); });
}

std::optional<uint64_t> Fields::seed(const std::string& name) const {
  return read(body, name, "an integer", [](const JsonView& n) {
    auto large = n.unsigned_integer();
    if (auto number = n.integer(); !large && number) large = static_cast<uint64_t>(*number);
    return large;
  });
}

std::optional<std::string> Fields::string(const std::string& name) const {
  return read(body, name, "a string", [](const JsonView& n) { return n.string(); });
}

std::vector<std::string> Fields::strings(const std::string& name) const {
  JsonView node = body[name];
  std::vector<std::string> out;
  if (node.unset()) return out;
  if (node.kind() == Kind::kString) {
    out.push_back(*node.string());
    return out;
  }
  if (node.kind() != Kind::kArray) wrong_type(name, node, "a string or a list of strings");
  for (size_t i = 0; i < node.size(); ++i) {
    if (node.at(i).kind() != Kind::kString) wrong_type(name, node.at(i), "a string or a list of strings");
    out.push_back(*node.at(i).string());
  }
  return out;
}

bool Fields::boolean(const std::string& name, bool otherwise) const {
  return read(body, name, "a boolean", [](const JsonView& n) { return n.boolean(); }).value_or(otherwise);
}

double Fields::in_range(const std::string& name, double otherwise, double low, double high) const {
  double value = number(name).value_or(otherwise);
  if (!(value >= low && value <= high))
    invalid_field(name, fmt::format("{} must be in [{:g}, {:g}], got {}.", name, low, high, value));
  return value;
}

JsonBody read_object(std::string_view text) {
  JsonBody body(text);
  if (body.root().kind() != Kind::kObject) wrong_type("body", body.root(), "a JSON object");
  return body;
}

bool asks(const JsonView& node, std::string_view neutral) {
  switch (node.kind()) {
    case Kind::kMissing:
    case Kind::kNull:
      return false;
    case Kind::kBool:
      return node.dump() != (neutral.empty() ? "false" : neutral);
    case Kind::kInteger:
    case Kind::kFloat:
      return *node.number() != 0 && node.dump() != neutral && node.dump() != std::string(neutral) + ".0";
    case Kind::kString:
      return !node.string_view().empty() && node.string_view() != neutral;
    default:
      return node.size() != 0;
  }
}

std::vector<int32_t> read_ids(const std::string& name, const JsonView& list, int64_t vocab) {
  std::vector<int32_t> ids;
  if (list.unset()) return ids;
  if (list.kind() != Kind::kArray) wrong_type(name, list, "a list of token ids");
  ids.reserve(list.size());
  for (size_t i = 0; i < list.size(); ++i) {
    auto id = list.at(i).integer();
    if (!id) wrong_type(name, list.at(i), "a token id");
    if (*id < 0 || *id >= vocab)
      invalid_field(name, fmt::format("{}: token id {} is outside the vocabulary of {} tokens", name, *id, vocab));
    ids.push_back(static_cast<int32_t>(*id));
  }
  return ids;
}

}  // namespace sluice
