// SPDX-License-Identifier: Apache-2.0
// The fields of a line, as Slurm's commands print them.
#pragma once

#include <algorithm>
#include <string_view>
#include <vector>

namespace sluice {

// Views into `text`; one more than there are marks, empty ones too.
inline std::vector<std::string_view> split(std::string_view text, char mark) {
  std::vector<std::string_view> out;
  for (size_t at = 0; at <= text.size();) {
    const size_t end = std::min(text.find(mark, at), text.size());
    out.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return out;
}

}  // namespace sluice
