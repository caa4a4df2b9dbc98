// SPDX-License-Identifier: Apache-2.0
// The JSON files beside a model that describe its text side.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "text/value.h"

namespace sluice {

// Names of special tokens that tokenizers and templates know.
inline constexpr const char* kNamedTokens[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                               "pad_token", "cls_token", "mask_token"};

// Throws Error naming `origin` when the text is not a JSON object.
Value parse_object(std::string_view text, const std::string& origin);

// tokenizer_config.json, with what only special_tokens_map.json says added; an empty dict when there is neither.
Value read_tokenizer_config(const std::filesystem::path& model_dir);

// Text of a named token in the configuration: a string, or "content" of an object; "" when absent or null.
std::string named_token(const Value& config, std::string_view name);

}  // namespace sluice
