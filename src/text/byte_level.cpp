// SPDX-License-Identifier: Apache-2.0
#include "text/byte_level.h"

#include <array>

#include "text/unicode.h"

namespace sluice {
namespace {
struct Maps {
  std::array<std::string, 256> text;
  std::array<int, 0x100 + 68> byte;
  Maps() {
    byte.fill(-1);
    char32_t next = 0x100;
    for (char32_t b = 0; b < 256; ++b) {
      const bool itself = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
      const char32_t code = itself ? b : next++;
      append_utf8(text[b], code);
      byte[code] = static_cast<int>(b);
    }
  }
};
const Maps& maps() {
  static const Maps kMaps;
  return kMaps;
}
}  // namespace

void append_byte_level(std::string& out, std::string_view bytes) {
  const Maps& m = maps();
  for (const char c : bytes) out += m.text[static_cast<uint8_t>(c)];
}

int byte_level_byte(char32_t code) { return code < maps().byte.size() ? maps().byte[code] : -1; }

}  // namespace sluice
