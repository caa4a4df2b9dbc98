// SPDX-License-Identifier: Apache-2.0
#include "text/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>

#include "base/error.h"

namespace sluice {
namespace {
uint8_t byte(char c) { return static_cast<uint8_t>(c); }
bool is_ascii(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return byte(c) < 0x80; });
}
}  // namespace

void append_utf8(std::string& out, char32_t code) {
  if (code < 0x80) {
    out += static_cast<char>(code);
  } else if (code < 0x800) {
    out += static_cast<char>(0xC0 | (code >> 6));
    out += static_cast<char>(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    out += static_cast<char>(0xE0 | (code >> 12));
    out += static_cast<char>(0x80 | ((code >> 6) & 0x3F));
    out += static_cast<char>(0x80 | (code & 0x3F));
  } else {
    out += static_cast<char>(0xF0 | (code >> 18));
    out += static_cast<char>(0x80 | ((code >> 12) & 0x3F));
    out += static_cast<char>(0x80 | ((code >> 6) & 0x3F));
    out += static_cast<char>(0x80 | (code & 0x3F));
  }
}

char32_t next_code(std::string_view text, size_t& at) {
  const uint8_t lead = byte(text[at]);
  if (lead < 0x80) return text[at++];
  const size_t n = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  char32_t code = lead & (0x7F >> n);
  for (size_t i = 1; i < n && at + i < text.size(); ++i) code = (code << 6) | (byte(text[at + i]) & 0x3F);
  at = std::min(at + n, text.size());
  return code;
}

char32_t last_code(std::string_view text) {
  size_t at = text.size() - 1;
  while (at > 0 && (byte(text[at]) & 0xC0) == 0x80) --at;
  return next_code(text, at);
}

int utf8_state(const char* bytes, size_t n) {
  const uint8_t lead = byte(bytes[0]);
  if (lead < 0x80) return n == 1 ? 1 : -1;
  if (lead < 0xC2 || lead > 0xF4) return -1;
  const size_t length = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  if (n > length) return -1;
  if (n >= 2) {  // the second byte's range excludes overlong forms, surrogates and codes above U+10FFFF
    const uint8_t low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    const uint8_t high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    if (byte(bytes[1]) < low || byte(bytes[1]) > high) return -1;
  }
  for (size_t i = 2; i < n; ++i) {
    if ((byte(bytes[i]) & 0xC0) != 0x80) return -1;
  }
  return n == length ? 1 : 0;
}

namespace {
// Length of the character at `at`, or 0 and the length of the ill-formed part in `bad`.
size_t character(std::string_view text, size_t at, size_t& bad) {
  for (size_t n = 1; n <= 4 && at + n <= text.size(); ++n) {
    const int state = utf8_state(text.data() + at, n);
    if (state == 1) return n;
    if (state < 0) {
      bad = std::max<size_t>(1, n - 1);
      return 0;
    }
  }
  bad = text.size() - at;
  return 0;
}
}  // namespace

bool is_utf8(std::string_view text) {
  size_t bad = 0;
  for (size_t at = 0; at < text.size();) {
    if (byte(text[at]) < 0x80) {
      ++at;
      continue;
    }
    const size_t n = character(text, at, bad);
    if (n == 0) return false;
    at += n;
  }
  return true;
}

std::string to_utf8_lossy(std::string_view bytes) {
  std::string out;
  out.reserve(bytes.size());
  for (size_t at = 0; at < bytes.size();) {
    size_t bad = 0;
    const size_t n = character(bytes, at, bad);
    out += n > 0 ? bytes.substr(at, n) : kReplacementText;
    at += n > 0 ? n : bad;
  }
  return out;
}

size_t count_codes(std::string_view text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) { return (byte(c) & 0xC0) != 0x80; }));
}

bool is_space(char32_t c) {
  return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) ||
         c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

namespace {
utf8proc_category_t category(char32_t c) { return utf8proc_category(static_cast<utf8proc_int32_t>(c)); }
}  // namespace

bool is_numeric(char32_t c) {
  const auto k = category(c);
  return k == UTF8PROC_CATEGORY_ND || k == UTF8PROC_CATEGORY_NL || k == UTF8PROC_CATEGORY_NO;
}

bool is_punctuation(char32_t c) {
  if (c < 0x80) return (c >= 33 && c <= 47) || (c >= 58 && c <= 64) || (c >= 91 && c <= 96) || (c >= 123 && c <= 126);
  const auto k = category(c);
  return k >= UTF8PROC_CATEGORY_PC && k <= UTF8PROC_CATEGORY_PO;
}

bool is_mark(char32_t c) {
  const auto k = category(c);
  return k == UTF8PROC_CATEGORY_MN || k == UTF8PROC_CATEGORY_MC || k == UTF8PROC_CATEGORY_ME;
}

bool is_nonspacing_mark(char32_t c) { return category(c) == UTF8PROC_CATEGORY_MN; }

bool is_other(char32_t c) {
  const auto k = category(c);
  return k == UTF8PROC_CATEGORY_CN || k >= UTF8PROC_CATEGORY_CC;  // Cc, Cf, Cs and Co are the last ones
}

bool is_word(char32_t c) {
  const auto k = category(c);
  return (k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO) || is_mark(c) || k == UTF8PROC_CATEGORY_ND ||
         k == UTF8PROC_CATEGORY_NL || k == UTF8PROC_CATEGORY_PC || c == 0x200C || c == 0x200D ||
         (c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) || (c >= 0x1F150 && c <= 0x1F169) ||
         (c >= 0x1F170 && c <= 0x1F189);  // circled and squared letters are Alphabetic
}

namespace {
// True when NFC surely leaves the text as it is: no mark, no decomposable character, no second half of a pair.
bool is_surely_nfc(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    const char32_t c = next_code(text, at);
    if (c < 0x300) continue;
    const utf8proc_property_t* p = utf8proc_get_property(static_cast<utf8proc_int32_t>(c));
    if (p->combining_class != 0 || p->decomp_seqindex != UINT16_MAX || p->comb_index != UINT16_MAX ||
        (c >= 0x1100 && c <= 0x11FF))
      return false;
  }
  return true;
}
}  // namespace

std::string normal_form(std::string_view text, NormalForm form) {
  if (is_ascii(text) || (form == NormalForm::kNfc && is_surely_nfc(text))) return std::string(text);
  int options = UTF8PROC_STABLE;
  options |= form == NormalForm::kNfc || form == NormalForm::kNfkc ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE;
  if (form == NormalForm::kNfkc || form == NormalForm::kNfkd) options |= UTF8PROC_COMPAT;
  utf8proc_uint8_t* mapped = nullptr;
  const auto length =
      utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()), static_cast<utf8proc_ssize_t>(text.size()),
                   &mapped, static_cast<utf8proc_option_t>(options));
  check(length >= 0, "Unicode normalisation failed on UTF-8 text");
  std::string out(reinterpret_cast<const char*>(mapped), static_cast<size_t>(length));
  std::free(mapped);
  return out;
}

std::string lower(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const char32_t c = next_code(text, at);
    if (c == 0x130) {
      out += "i\xCC\x87";
    } else {
      append_utf8(out, static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))));
    }
  }
  return out;
}

std::string upper(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const char32_t c = next_code(text, at);
    if (c == 0xDF) {
      out += "SS";
    } else {
      append_utf8(out, static_cast<char32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(c))));
    }
  }
  return out;
}

}  // namespace sluice
