// SPDX-License-Identifier: Apache-2.0
// The one way in which text becomes part of a JSON string.
#pragma once

#include <string>
#include <string_view>

namespace sluice {

// Appends text between the quotes of a string: quotes, backslashes and control characters are escaped, by a letter
// where JSON has one. Text is valid UTF-8 and otherwise taken as it is.
void append_json_text(std::string& out, std::string_view text);

}  // namespace sluice
