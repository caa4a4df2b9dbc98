// SPDX-License-Identifier: Apache-2.0
// GPT-2's mapping of bytes to printable characters: 21-7E, A1-AC, AE-FF stand for themselves, the other 68 bytes for
// U+0100 onwards in byte order.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace sluice {

void append_byte_level(std::string& out, std::string_view bytes);
// The byte a character stands for, -1 when it stands for none.
int byte_level_byte(char32_t code);

}  // namespace sluice
