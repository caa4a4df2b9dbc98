// SPDX-License-Identifier: Apache-2.0
// The normalizer of a tokenizer.json: a chain of text rewrites. Immutable after loading.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "text/component.h"

namespace sluice {

class Normalizer {
 public:
  Normalizer() = default;                          // changes nothing
  explicit Normalizer(const ComponentJson& json);  // throws Error for an unknown type
  // UTF-8 in and out. False when what the text began with is dropped: it no longer starts where it started.
  bool apply(std::string& text) const;
  bool empty() const { return stages_.empty(); }

 private:
  void add(const ComponentJson& json);
  std::vector<std::function<bool(std::string&)>> stages_;
};

}  // namespace sluice
