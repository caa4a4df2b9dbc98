// SPDX-License-Identifier: Apache-2.0
// Tokenizers that come without a tokenizer.json: vocab.json with merges.txt, a SentencePiece model, a tiktoken file.
// Each is rewritten into what transformers' converter would save as tokenizer.json, which the executor then runs.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "text/value.h"

namespace sluice {

struct SentencePieceFile;

struct ImportedTokenizer {
  Value json;          // as a tokenizer.json
  Value config;        // tokenizer_config.json with what the class or the file fixes filled in
  std::string origin;  // the file that was read
};

// Nothing where the folder holds none of them. Throws Error naming the file and place.
std::optional<ImportedTokenizer> import_tokenizer(const std::filesystem::path& model_dir, const Value& config);

// The same from the files' content; `origin` names them in errors. `extra` is added_tokens.json or null.
ImportedTokenizer import_merges(const Value& vocab, std::string_view merges, const Value& extra, const Value& config,
                                const std::string& origin);
ImportedTokenizer import_sentencepiece(std::string_view model, const Value& config, const std::string& origin);
// A SentencePiece model of type Unigram; import_sentencepiece calls it for those.
ImportedTokenizer import_unigram(const SentencePieceFile& model, const Value& config, const std::string& origin);
ImportedTokenizer import_tiktoken(std::string_view ranks, const Value& config, const std::string& origin);
// A tokenizer.model is either of the two.
bool is_tiktoken(std::string_view file);

}  // namespace sluice
