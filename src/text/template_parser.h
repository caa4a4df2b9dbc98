// SPDX-License-Identifier: Apache-2.0
// Template text to syntax tree: the part of Jinja that chat templates use. Tags outside it are refused by name.
#pragma once

#include <string_view>

#include "text/template_ast.h"

namespace sluice {

// Throws Error "line N: ...".
Body parse_template(std::string_view source);

}  // namespace sluice
