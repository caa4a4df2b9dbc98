// SPDX-License-Identifier: Apache-2.0
// Chat templates that --chat-template knows by name, for models that come without one.
#pragma once

#include <span>
#include <string_view>

namespace sluice {

struct BuiltinTemplate {
  std::string_view name, source;
};
std::span<const BuiltinTemplate> builtin_templates();

}  // namespace sluice
