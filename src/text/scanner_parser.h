// SPDX-License-Identifier: Apache-2.0
// A pattern's text to the program that Scanner runs.
#pragma once

#include <string_view>
#include <vector>

#include "text/scanner.h"

namespace sluice {

struct ScannerProgram {
  std::vector<CodeSet> sets;  // bit n of an Op's set is sets[n]
  std::vector<Scanner::Op> ops;
  std::vector<uint32_t> entries;  // of the alternatives
};

// False for a pattern outside the subset, whether or not it is well-formed.
bool parse_scanner(std::string_view pattern, ScannerProgram& program);

}  // namespace sluice
