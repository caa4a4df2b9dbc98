// SPDX-License-Identifier: Apache-2.0
// JSON at the door: typed reading of request bodies and allocation-free writing of replies.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json_text.h"
#include "text/value.h"

namespace sluice {

// A view of one node of a JsonBody, which must outlive it. A missing node is its own kind.
class JsonView {
 public:
  enum class Kind { kMissing, kNull, kBool, kInteger, kFloat, kString, kArray, kObject };
  JsonView() = default;

  Kind kind() const;
  bool missing() const { return node_ == nullptr; }
  bool unset() const { return missing() || kind() == Kind::kNull; }  // absent or null
  JsonView operator[](std::string_view key) const;                   // of an object, else missing
  JsonView at(size_t index) const;                                   // of an array
  size_t size() const;                                               // of an array or object, else 0
  std::vector<std::string> keys() const;

  // Nothing when the node is of another kind; integers may be written as 3.0.
  std::optional<bool> boolean() const;
  std::optional<int64_t> integer() const;
  std::optional<uint64_t> unsigned_integer() const;
  std::optional<double> number() const;
  std::optional<std::string> string() const;
  std::string_view string_view() const;  // empty when not a string

  std::string describe() const;  // "integer `5`", "string \"ab...\"", "a list", for error messages
  std::string dump() const;
  Value value() const;  // for chat templates

 private:
  friend class JsonBody;
  explicit JsonView(const void* node) : node_(node) {}
  const void* node_ = nullptr;
};

class JsonBody {
 public:
  // Throws RequestError(kMalformed) with the parser's reason. At most 128 levels deep.
  explicit JsonBody(std::string_view text);
  JsonBody(JsonBody&&) noexcept;
  ~JsonBody();
  JsonView root() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// What a body says about itself at a glance, read without building the tree; empty when it is no JSON object.
struct BodyOutline {
  std::vector<std::string> keys;  // names of the outermost members
  std::string model;              // their "model", where that is a string
  bool has(std::string_view key) const;
};
BodyOutline outline(std::string_view text);

// Writing. append_json_text (base/json_text.h) with its quotes.
void append_json_string(std::string& out, std::string_view text);
void append_json_number(std::string& out, float number);  // shortest form; null when not finite
void append_json_number(std::string& out, double number);
void append_integer(std::string& out, int64_t number);
void append_unsigned(std::string& out, uint64_t number);

int64_t utf8_length(std::string_view text);  // characters

}  // namespace sluice
