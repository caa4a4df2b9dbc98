// SPDX-License-Identifier: Apache-2.0
// UTF-8 and the few Unicode properties that tokenizers ask for.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace sluice {

inline constexpr char32_t kReplacement = 0xFFFD;
inline constexpr std::string_view kReplacementText = "\xEF\xBF\xBD";

void append_utf8(std::string& out, char32_t code);

// The code point at `at`, which is advanced past it. The text must be UTF-8.
char32_t next_code(std::string_view text, size_t& at);
char32_t last_code(std::string_view text);  // of a text that is not empty

// -1: these 1 to 4 bytes cannot start a character; 0: a character's incomplete start; 1: exactly one character.
int utf8_state(const char* bytes, size_t n);

bool is_utf8(std::string_view text);
// One U+FFFD for each maximal ill-formed part, as Rust and WHATWG decoders do.
std::string to_utf8_lossy(std::string_view bytes);
size_t count_codes(std::string_view text);  // code points of UTF-8 text

bool is_space(char32_t code);        // White_Space
bool is_numeric(char32_t code);      // Nd, Nl, No
bool is_punctuation(char32_t code);  // ASCII punctuation and category P
bool is_mark(char32_t code);         // category M
bool is_nonspacing_mark(char32_t code);
bool is_other(char32_t code);  // category C: control, format, unassigned, private
bool is_word(char32_t code);   // \w

enum class NormalForm { kNfc, kNfd, kNfkc, kNfkd };
std::string normal_form(std::string_view text, NormalForm form);  // text must be UTF-8
std::string lower(std::string_view text);                         // full mapping per code point, no context
std::string upper(std::string_view text);                         // simple mapping, and ß to SS

}  // namespace sluice
