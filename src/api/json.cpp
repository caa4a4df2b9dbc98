// SPDX-License-Identifier: Apache-2.0
#include "api/json.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace sluice {
namespace {

using Node = nlohmann::ordered_json;  // templates see members in the order written
constexpr int kMaxDepth = 128;

const Node& node_of(const void* p) { return *static_cast<const Node*>(p); }

// "[json.exception.parse_error.101] parse error at line 1, column 2: ..." without the bracket.
std::string reason(const std::exception& error) {
  std::string text = error.what();
  auto end = text.find("] ");
  return end == std::string::npos ? text : text.substr(end + 2);
}

Value convert(const Node& node) {
  switch (node.type()) {
    case Node::value_t::boolean:
      return Value(node.get<bool>());
    case Node::value_t::number_integer:
      return Value(node.get<int64_t>());
    case Node::value_t::number_unsigned:
      if (node.get<uint64_t>() <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
        return Value(node.get<int64_t>());
      return Value(node.get<double>());
    case Node::value_t::number_float:
      return Value(node.get<double>());
    case Node::value_t::string:
      return Value(node.get_ref<const std::string&>());
    case Node::value_t::array: {
      List items;
      items.reserve(node.size());
      for (const Node& item : node) items.push_back(convert(item));
      return Value(std::move(items));
    }
    case Node::value_t::object: {
      Dict dict;
      for (const auto& [key, item] : node.items()) dict.set(key, convert(item));
      return Value(std::move(dict));
    }
    default:
      return Value(nullptr);
  }
}

// Collects the members of the outermost object and skips the rest.
struct OutlineScanner : nlohmann::json_sax<Node> {
  BodyOutline outline;
  bool names_model = false;
  int depth = 0;
  bool object = false;

  bool enter(bool is_object) {
    if (depth == 0) object = is_object;
    return ++depth <= kMaxDepth && object;
  }
  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t& text) override {
    if (depth == 1 && names_model) outline.model = text;
    return true;
  }
  bool binary(binary_t&) override { return true; }
  bool start_object(std::size_t) override { return enter(true); }
  bool start_array(std::size_t) override { return enter(false); }
  bool end_object() override { return --depth, true; }
  bool end_array() override { return --depth, true; }
  bool key(string_t& name) override {
    if (depth != 1) return true;
    names_model = name == "model";
    outline.keys.push_back(name);
    return true;
  }
  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception&) override { return false; }
};

template <class T>
void append_number(std::string& out, T number) {
  char text[32];
  auto end = std::to_chars(text, text + sizeof text, number).ptr;
  out.append(text, end);
}

template <class T>
void append_real(std::string& out, T number) {
  if (!std::isfinite(number)) {
    out += "null";
    return;
  }
  size_t start = out.size();
  append_number(out, number);
  // A float stays a float for typed readers: 0 is written as 0.0.
  if (out.find_first_of(".e", start) == std::string::npos) out += ".0";
}

}  // namespace

struct JsonBody::Impl {
  Node root;
};

JsonBody::JsonBody(std::string_view text) : impl_(std::make_unique<Impl>()) {
  try {
    impl_->root = Node::parse(text.begin(), text.end(), [](int depth, Node::parse_event_t, Node&) {
      if (depth > kMaxDepth)
        throw RequestError(RequestError::Kind::kMalformed,
                           "the JSON body is nested deeper than " + std::to_string(kMaxDepth) + " levels");
      return true;
    });
  } catch (const Node::exception& error) {
    throw RequestError(RequestError::Kind::kMalformed, reason(error));
  }
}
JsonBody::JsonBody(JsonBody&&) noexcept = default;
JsonBody::~JsonBody() = default;
JsonView JsonBody::root() const { return JsonView(&impl_->root); }

JsonView::Kind JsonView::kind() const {
  if (node_ == nullptr) return Kind::kMissing;
  switch (node_of(node_).type()) {
    case Node::value_t::boolean:
      return Kind::kBool;
    case Node::value_t::number_integer:
    case Node::value_t::number_unsigned:
      return Kind::kInteger;
    case Node::value_t::number_float:
      return Kind::kFloat;
    case Node::value_t::string:
      return Kind::kString;
    case Node::value_t::array:
      return Kind::kArray;
    case Node::value_t::object:
      return Kind::kObject;
    default:
      return Kind::kNull;
  }
}

JsonView JsonView::operator[](std::string_view key) const {
  if (kind() != Kind::kObject) return {};
  auto it = node_of(node_).find(std::string(key));
  return it == node_of(node_).end() ? JsonView() : JsonView(&*it);
}

JsonView JsonView::at(size_t index) const {
  if (kind() != Kind::kArray || index >= size()) return {};
  return JsonView(&node_of(node_)[index]);
}

size_t JsonView::size() const {
  Kind k = kind();
  return k == Kind::kArray || k == Kind::kObject ? node_of(node_).size() : 0;
}

std::vector<std::string> JsonView::keys() const {
  std::vector<std::string> names;
  if (kind() == Kind::kObject)
    for (const auto& [key, item] : node_of(node_).items()) names.push_back(key);
  return names;
}

std::optional<bool> JsonView::boolean() const {
  if (kind() != Kind::kBool) return {};
  return node_of(node_).get<bool>();
}

std::optional<int64_t> JsonView::integer() const {
  if (kind() == Kind::kFloat) {
    double d = node_of(node_).get<double>();
    if (d == std::floor(d) && std::abs(d) < 9e15) return static_cast<int64_t>(d);
    return {};
  }
  if (kind() != Kind::kInteger) return {};
  const Node& node = node_of(node_);
  if (node.is_number_unsigned() && node.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
    return {};
  return node.get<int64_t>();
}

std::optional<uint64_t> JsonView::unsigned_integer() const {
  if (kind() == Kind::kInteger && node_of(node_).is_number_unsigned()) return node_of(node_).get<uint64_t>();
  auto number = integer();
  if (!number || *number < 0) return {};
  return static_cast<uint64_t>(*number);
}

std::optional<double> JsonView::number() const {
  if (kind() != Kind::kInteger && kind() != Kind::kFloat) return {};
  return node_of(node_).get<double>();
}

std::optional<std::string> JsonView::string() const {
  if (kind() != Kind::kString) return {};
  return node_of(node_).get<std::string>();
}

std::string_view JsonView::string_view() const {
  if (kind() != Kind::kString) return {};
  return node_of(node_).get_ref<const std::string&>();
}

std::string JsonView::describe() const {
  switch (kind()) {
    case Kind::kMissing:
      return "nothing";
    case Kind::kNull:
      return "null";
    case Kind::kBool:
      return "boolean `" + dump() + "`";
    case Kind::kInteger:
      return "integer `" + dump() + "`";
    case Kind::kFloat:
      return "floating point `" + dump() + "`";
    case Kind::kString: {
      std::string text = dump();
      return "string " + (text.size() <= 48 ? text : "of " + std::to_string(string_view().size()) + " bytes");
    }
    case Kind::kArray:
      return "a list";
    default:
      return "a map";
  }
}

std::string JsonView::dump() const {
  return missing() ? std::string() : node_of(node_).dump(-1, ' ', false, Node::error_handler_t::replace);
}

Value JsonView::value() const { return missing() ? Value() : convert(node_of(node_)); }

bool BodyOutline::has(std::string_view key) const { return std::find(keys.begin(), keys.end(), key) != keys.end(); }

BodyOutline outline(std::string_view text) {
  OutlineScanner scanner;
  Node::sax_parse(text.begin(), text.end(), &scanner);
  return std::move(scanner.outline);
}

void append_json_string(std::string& out, std::string_view text) {
  out += '"';
  append_json_text(out, text);
  out += '"';
}

void append_json_number(std::string& out, float number) { append_real(out, number); }
void append_json_number(std::string& out, double number) { append_real(out, number); }
void append_integer(std::string& out, int64_t number) { append_number(out, number); }
void append_unsigned(std::string& out, uint64_t number) { append_number(out, number); }

int64_t utf8_length(std::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; });
}

}  // namespace sluice
