// SPDX-License-Identifier: Apache-2.0
#include "text/scanner.h"

#include <doctest/doctest.h>

#include <random>
#include <string>
#include <vector>

#include "base/error.h"
#include "text/regex.h"
#include "text/unicode.h"

using namespace sluice;

namespace {
// As the families' files have them.
const char* const kPatterns[] = {
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)",
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
    R"( ?[^(\s|[.,!?…。，、।۔،])]+)",
    R"(\p{N}{1,3})",
    "[一-龥぀-ゟ゠-ヿ]+",
    "[0-9][0-9][0-9]",
    " {2,}",
    R"([\p{^L}\d]x?(?:ab|a|bc)?c|\S{2}|\P{N}é{1,2}[^\p{L}\s]|(?:x|xy)y)",
    "(?i:k|'ss?)x"};

using Spans = std::vector<std::pair<size_t, size_t>>;
Spans matches(const Regex& regex, const std::string& text) {
  Spans out;
  regex.each(text, [&](size_t begin, size_t end) { out.emplace_back(begin, end); });
  return out;
}
}  // namespace

TEST_CASE("patterns of the families' files match as Oniguruma matches them") {
  const std::vector<std::string> alphabet = {" ",      "  ",     "\t",
                                             "\r",     "\n",     "\r\n",
                                             "a",      "b",      "c",
                                             "x",      "y",      "A",
                                             "Z",      "'s",     "'S",
                                             "'ſ",     "'re",    "'LL",
                                             "'ve",    "'",      "1",
                                             "23",     "²",      "½",
                                             "Ⅳ",      "٣",      ".",
                                             ",",      "(",      ")",
                                             "|",      "…",      "。",
                                             "/",      "_",      "-",
                                             "é",      "É",      "é",
                                             "ß",      "ǅ",      "ʰ",
                                             "ا",      "中",     "カ",
                                             "ゟ",     "🙂",   "\u0301",
                                             "\u0345", "\u00A0", "\u3000",
                                             "\u0085", "\u200D", "K",
                                             "€",      "+",      std::string(1, '\0')};
  std::mt19937 random(5);
  for (const char* pattern : kPatterns) {
    CAPTURE(std::string(pattern));
    const Regex fast(pattern), engine(pattern, Regex::Use::kEngine);
    CHECK_FALSE(engine.scans());
    if (std::string_view(pattern).find("ss") == std::string_view::npos) REQUIRE(fast.scans());
    for (int round = 0; round < 4000; ++round) {
      std::string text;
      for (unsigned n = random() % 12; n > 0; --n) text += alphabet[random() % alphabet.size()];
      CAPTURE(text);
      REQUIRE(matches(fast, text) == matches(engine, text));
    }
  }
}

TEST_CASE("every code point belongs to the classes that Oniguruma puts it in") {
  for (const char* pattern : {R"(\p{L})", R"(\p{N})", R"(\s)", R"(\p{P})", R"(\p{S})", R"(\p{M})", R"(\p{Lu})", R"(\d)",
                              "(?i:s)", "(?i:k)"}) {
    CAPTURE(std::string(pattern));
    const Regex fast(pattern), engine(pattern, Regex::Use::kEngine);
    REQUIRE(fast.scans());
    std::string text;
    for (char32_t code = 0; code < 0x110000; ++code) {
      if (code < 0xD800 || code > 0xDFFF) append_utf8(text, code);
    }
    CHECK(matches(fast, text) == matches(engine, text));
  }
}

TEST_CASE("patterns with more in them are left to the engine") {
  for (const char* pattern : {"a*", "(?=a)b", "(?<=a)b", "a|b*", "^a", "a$", R"(\ba)", "a+?", "a++", "(ab)+", ".",
                              "[a&&b]", R"(\w)", "[[:alpha:]]", R"((a)\1)", "(?i:ss)", R"(\x41)", "(?!ab)c", "a{0}"}) {
    CAPTURE(std::string(pattern));
    CHECK_FALSE(Regex(pattern).scans());
  }
}

TEST_CASE("a pattern that backtracks without end is stopped") {
  std::string pattern = "a*";
  for (int i = 0; i < 12; ++i) pattern += "[ab]*";
  const Regex regex(pattern + "c");
  REQUIRE(regex.scans());
  CHECK_THROWS_WITH_AS(matches(regex, std::string(200, 'a')), doctest::Contains("within limits"), RequestError);
  CHECK(matches(regex, "aac").size() == 1);
}
