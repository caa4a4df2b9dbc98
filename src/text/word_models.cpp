// SPDX-License-Identifier: Apache-2.0
#include "text/word_models.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "text/unicode.h"

namespace sluice {
namespace {
constexpr size_t kMaxToken = 256;  // bytes; bounds the work per character of text
}  // namespace

WordPiece::WordPiece(const ComponentJson& json) {
  read_vocab(json);
  const std::string unk = json.text("unk_token", "[UNK]");
  unk_ = find(unk);
  if (unk_ < 0) json.refuse(fmt::format("unk_token {} is not in the vocabulary", unk));
  prefix_ = json.text("continuing_subword_prefix", "##");
  max_codes_ = json.integer("max_input_chars_per_word", 100);
  for (const std::string& token : tokens()) longest_ = std::max(longest_, token.size());
  if (longest_ > kMaxToken) json.refuse(fmt::format("a token of {} bytes, expected at most {}", longest_, kMaxToken));
}

void WordPiece::encode(std::string_view word, Memory& memory, std::vector<int32_t>& out) const {
  if (static_cast<int64_t>(count_codes(word)) > max_codes_) return out.push_back(unk_);
  const size_t before = out.size();
  for (size_t begin = 0; begin < word.size();) {
    int32_t found = -1;
    size_t end = std::min(word.size(), begin + longest_);
    while (end < word.size() && end > begin && (static_cast<uint8_t>(word[end]) & 0xC0) == 0x80) --end;
    while (end > begin) {
      const std::string_view part = word.substr(begin, end - begin);
      if (begin == 0) {
        found = find(part);
      } else {
        memory.text = prefix_;
        memory.text += part;
        found = find(memory.text);
      }
      if (found >= 0) break;
      --end;
      while (end > begin && (static_cast<uint8_t>(word[end]) & 0xC0) == 0x80) --end;
    }
    if (found < 0) {
      out.resize(before);
      return out.push_back(unk_);
    }
    out.push_back(found);
    begin = end;
  }
}

WordLevel::WordLevel(const ComponentJson& json) {
  read_vocab(json);
  unk_ = id(json.text("unk_token", "<unk>"));
}

void WordLevel::encode(std::string_view word, Memory&, std::vector<int32_t>& out) const {
  if (const int32_t known = find(word); known >= 0) return out.push_back(known);
  if (!unk_) {
    throw RequestError(RequestError::Kind::kValidation,
                       fmt::format("the tokenizer does not know the word {}, and its vocabulary has no unk_token",
                                   word.substr(0, 80)));
  }
  out.push_back(*unk_);
}

}  // namespace sluice
