// SPDX-License-Identifier: Apache-2.0
// Vocabularies for tests: all bytes, some longer tokens, one end token.
#pragma once

#include <memory>
#include <random>
#include <string>
#include <vector>

#include "grammar/automaton.h"
#include "grammar/runtime.h"

namespace sluice::test {

inline constexpr int32_t kEnd = 256;

inline std::shared_ptr<grammar::Vocabulary> small_vocabulary() {
  std::vector<std::string> texts;
  for (int i = 0; i < 256; ++i) texts.push_back(std::string(1, static_cast<char>(i)));
  texts.push_back("</s>");
  for (const char* text :
       {"{\"",   "\":", "\": \"", "\",",      "null", "true", "fal", "}}", "]]", "hello", "  ", "123",
        "abc\"", "é",   "ü\"",    "\xE6\x97", "\n  ", "ab",   "a",   "0.", "-1", "[{",    "yes"})
    texts.push_back(text);
  return std::make_shared<grammar::Vocabulary>(texts, std::vector<int32_t>{kEnd});
}

inline std::shared_ptr<grammar::Runtime> runtime_of(GrammarSpec::Kind kind, std::string text,
                                                    const std::shared_ptr<grammar::Vocabulary>& vocabulary) {
  return std::make_shared<grammar::Runtime>(grammar::compile({kind, std::move(text)}, *vocabulary), vocabulary);
}

inline bool allows(std::span<const uint32_t> mask, int32_t id) {
  return (mask[static_cast<size_t>(id) / 32] >> (static_cast<uint32_t>(id) % 32) & 1) != 0;
}

}  // namespace sluice::test
