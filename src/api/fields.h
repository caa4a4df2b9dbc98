// SPDX-License-Identifier: Apache-2.0
// Typed members of a JSON object. null counts as absent; every complaint is a RequestError(kValidation) that names the
// member, what was expected and what was found.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "api/json.h"
#include "sample/params.h"

namespace sluice {

[[noreturn]] void invalid_field(std::string name, const std::string& text);
[[noreturn]] void wrong_type(const std::string& name, const JsonView& found, std::string_view expected);

struct Fields {
  JsonView body;

  std::optional<double> number(const std::string& name) const;
  std::optional<int64_t> integer(const std::string& name) const;
  std::optional<uint64_t> seed(const std::string& name) const;  // negative ones wrap
  std::optional<std::string> string(const std::string& name) const;
  std::vector<std::string> strings(const std::string& name) const;  // a string or a list of strings
  bool boolean(const std::string& name, bool otherwise) const;
  double in_range(const std::string& name, double otherwise, double low, double high) const;
};

// The body as an object, whatever its content-type says. Throws RequestError(kMalformed or kValidation).
JsonBody read_object(std::string_view text);

// True when the member is there and neither null, false, zero, empty, nor equal to `neutral`: somebody counts on it.
bool asks(const JsonView& node, std::string_view neutral);

// A list of token ids, each below `vocab`.
std::vector<int32_t> read_ids(const std::string& name, const JsonView& list, int64_t vocab);

}  // namespace sluice
