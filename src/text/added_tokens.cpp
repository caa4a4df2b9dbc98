// SPDX-License-Identifier: Apache-2.0
#include "text/added_tokens.h"

#include <algorithm>

#include "base/error.h"
#include "text/unicode.h"

namespace sluice {

AddedToken AddedToken::from_json(const Value& json, bool normalized_default) {
  AddedToken token;
  const Value* content = json.find("content");
  if (content == nullptr || !content->is_string()) throw Error("added token: \"content\" should be a string");
  token.content = content->as_string();
  const auto flag = [&](const char* key, bool fallback) {
    const Value* value = json.find(key);
    return value != nullptr && value->is_bool() ? value->as_bool() : fallback;
  };
  token.single_word = flag("single_word", false);
  token.lstrip = flag("lstrip", false);
  token.rstrip = flag("rstrip", false);
  token.special = flag("special", false);
  token.normalized = flag("normalized", normalized_default);
  return token;
}

void AddedTokens::add(const AddedToken& token, const ModelId& model_id, size_t model_size) {
  if (token.content.empty()) return;
  int32_t id = this->id(token.content);
  if (id < 0) id = model_id(token.content);
  if (id < 0) id = std::max(static_cast<int32_t>(model_size), by_id_.empty() ? 0 : by_id_.rbegin()->first + 1);
  by_id_[id] = token;
  ids_[token.content] = id;
  if (token.special) specials_.insert(token.content);
}

int32_t AddedTokens::id(std::string_view content) const {
  const auto it = ids_.find(content);
  return it == ids_.end() ? -1 : it->second;
}

void AddedTokens::Matcher::add(std::string text, int32_t id) {
  if (text.empty()) return;
  owned.push_back(std::make_unique<std::string>(std::move(text)));
  const std::string& key = *owned.back();
  ids[key] = id;
  auto& sizes = lengths[static_cast<uint8_t>(key[0])];
  if (std::find(sizes.begin(), sizes.end(), key.size()) == sizes.end()) sizes.push_back(key.size());
  std::sort(sizes.rbegin(), sizes.rend());
}

void AddedTokens::build(const Normalizer& normalizer) {
  raw_ = {};
  normalized_ = {};
  for (const auto& [id, token] : by_id_) {
    std::string text = token.content;
    if (token.normalized) normalizer.apply(text);
    (token.normalized ? normalized_ : raw_).add(std::move(text), id);
  }
}

std::vector<TextPart> AddedTokens::find(const Matcher& matcher, std::string_view text) const {
  std::vector<TextPart> parts;
  size_t done = 0;  // text up to here has been given out
  for (size_t at = 0; at < text.size();) {
    int32_t id = -1;
    size_t length = 0;
    for (const size_t n : matcher.lengths[static_cast<uint8_t>(text[at])]) {
      if (at + n > text.size()) continue;
      const auto it = matcher.ids.find(text.substr(at, n));
      if (it == matcher.ids.end()) continue;
      id = it->second;
      length = n;
      break;
    }
    if (id < 0) {
      ++at;
      continue;
    }
    const AddedToken& token = by_id_.at(id);
    size_t begin = at, end = at + length;
    at = end;  // also a rejected match is consumed
    if (token.single_word) {
      size_t next = end;
      if (begin > 0 && is_word(last_code(text.substr(0, begin)))) continue;
      if (end < text.size() && is_word(next_code(text, next))) continue;
    }
    if (token.lstrip) {
      while (begin > done) {
        const char32_t code = last_code(text.substr(done, begin - done));
        if (!is_space(code)) break;
        begin -= code < 0x80 ? 1 : code < 0x800 ? 2 : 3;
      }
    }
    if (token.rstrip) {
      for (size_t next = end; end < text.size() && is_space(next_code(text, next)); end = next) {
      }
    }
    if (done < begin) parts.push_back({done, begin, -1});
    parts.push_back({begin, end, id});
    done = end;
  }
  if (done < text.size()) parts.push_back({done, text.size(), -1});
  return parts;
}

}  // namespace sluice
