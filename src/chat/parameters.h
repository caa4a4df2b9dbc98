// SPDX-License-Identifier: Apache-2.0
// What a conversation asks of the sampler, by the names that people type.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "engine/request.h"
#include "text/value.h"

namespace sluice {

class ChatParameters {
 public:
  // `name` as in names() or Ollama's for the same (num_predict, repeat_penalty), with - for _ too. Throws Error naming
  // what was expected and what was found.
  void set(std::string_view name, std::string_view text);
  void unset(std::string_view name);  // throws Error when it is no parameter

  void apply(GenerateRequest& request) const;
  const Dict& fields() const { return values_; }  // as the OpenAI routes take them
  // Lines "name value" of those that are set.
  std::string text() const;
  static std::vector<std::string> names();

 private:
  Dict values_;
};

}  // namespace sluice
