// SPDX-License-Identifier: Apache-2.0
#include "base/json_text.h"

namespace sluice {

void append_json_text(std::string& out, std::string_view text) {
  constexpr std::string_view kFrom = "\"\\\b\f\n\r\t", kTo = "\"\\bfnrt", kHex = "0123456789abcdef";
  size_t from = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    if (c >= 0x20 && c != '"' && c != '\\') [[likely]]
      continue;
    out.append(text, from, i - from);
    from = i + 1;
    out += '\\';
    if (const size_t at = kFrom.find(text[i]); at != std::string_view::npos) {
      out += kTo[at];
    } else {
      out += "u00";
      out += kHex[c >> 4];
      out += kHex[c & 15];
    }
  }
  out.append(text, from, text.size() - from);
}

}  // namespace sluice
