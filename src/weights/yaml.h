// SPDX-License-Identifier: Apache-2.0
// The part of YAML that configuration dumps use: nested maps and lists by indentation, flow lists and maps, plain and
// quoted scalars, comments. Anchors, tags, block scalars and several documents are refused by name.
#pragma once

#include <string>
#include <string_view>

namespace sluice {

// The same values as JSON text. Throws Error naming `origin` and the line.
std::string yaml_to_json(std::string_view text, const std::string& origin);

}  // namespace sluice
