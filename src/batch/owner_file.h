// SPDX-License-Identifier: Apache-2.0
// An Owner as text, and what this host knows of its processes.
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "batch/claims.h"

namespace sluice {

std::string serialise(const Owner& owner);  // "name value" lines
Owner parse_owner(std::string_view text);   // without an id where the text is not whole
// True when the owner ran on this host, where this process would see it, and does not any more.
bool gone_from_here(const Owner& owner, const Owner& me);
// squeue's "%A|%T" lines: job -> state.
std::map<std::string, std::string> parse_states(std::string_view text);

}  // namespace sluice
