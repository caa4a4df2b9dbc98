// SPDX-License-Identifier: Apache-2.0
// Pieces of a tokenizer.json that importers write.
#pragma once

#include <initializer_list>
#include <string>
#include <utility>

#include "text/model_files.h"
#include "text/value.h"

namespace sluice {

inline Dict json_dict(std::initializer_list<Dict::Entry> entries) {
  Dict out;
  for (const auto& [key, value] : entries) out.set(key, value);
  return out;
}

inline Value byte_level_part(bool add_prefix_space, bool use_regex) {
  return json_dict({{"type", "ByteLevel"},
                    {"add_prefix_space", add_prefix_space},
                    {"trim_offsets", true},
                    {"use_regex", use_regex}});
}

// A post-processor that puts one token before the text, or after it.
inline Value one_token_template(const std::string& token, int64_t id, bool at_end) {
  const Value special = json_dict({{"SpecialToken", json_dict({{"id", token}, {"type_id", 0}})}});
  const Value text = json_dict({{"Sequence", json_dict({{"id", "A"}, {"type_id", 0}})}});
  const Value known = json_dict({{"id", token}, {"ids", List{id}}, {"tokens", List{token}}});
  const List items = at_end ? List{text, special} : List{special, text};
  return json_dict({{"type", "TemplateProcessing"},
                    {"single", items},
                    {"pair", items},
                    {"special_tokens", json_dict({{token, known}})}});
}

inline Value added_token(int64_t id, const std::string& content, bool normalized, bool special) {
  return json_dict({{"id", id},
                    {"content", content},
                    {"single_word", false},
                    {"lstrip", false},
                    {"rstrip", false},
                    {"normalized", normalized},
                    {"special", special}});
}

inline Value replace_part(const char* kind, const char* pattern, std::string_view content) {
  return json_dict({{"type", "Replace"}, {"pattern", json_dict({{kind, pattern}})}, {"content", content}});
}

inline Value sequence_of(const char* key, List items) {
  return json_dict({{"type", "Sequence"}, {key, std::move(items)}});
}

inline std::string text_of(const Value& config, std::string_view key) { return named_token(config, key); }

inline bool flag_of(const Value& config, std::string_view key, bool fallback) {
  const Value* value = config.find(key);
  return value != nullptr && value->is_bool() ? value->as_bool() : fallback;
}

}  // namespace sluice
