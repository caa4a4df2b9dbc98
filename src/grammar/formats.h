// SPDX-License-Identifier: Apache-2.0
// The formats of JSON strings that can be asked for, as regular expressions of their whole text. Each takes a part of
// what its definition does: days end with the 28th, addresses have no rare spellings.
#pragma once

#include <string_view>

namespace sluice::grammar {

std::string_view format_pattern(std::string_view name);  // empty: not known

}  // namespace sluice::grammar
