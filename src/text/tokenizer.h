// SPDX-License-Identifier: Apache-2.0
// Executor of a Hugging Face tokenizer.json: the file's components run literally, unknown ones are refused by name.
// Ids equal the `tokenizers` package (and transformers' fast tokenizers). Immutable after loading; all const members
// may be called from several threads at once.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace sluice {

struct DecodeTable;

class Tokenizer {
 public:
  // Reads tokenizer.json, or what text/import.h knows in its place, and tokenizer_config.json and
  // special_tokens_map.json where present. Throws Error.
  static std::unique_ptr<Tokenizer> load(const std::filesystem::path& model_dir);
  // The same from text; `config_json` may be empty, `origin` names the file in errors.
  static std::unique_ptr<Tokenizer> from_json(std::string_view tokenizer_json, std::string_view config_json,
                                              const std::string& origin);
  // 256 byte tokens (id = byte), <s> = 256 prepended as special, </s> = 257. For models without a vocabulary.
  static std::unique_ptr<Tokenizer> bytes();
  ~Tokenizer();
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  // Bytes that are not UTF-8 are read as U+FFFD. `add_special`: run the post-processor's template (BOS, EOS).
  std::vector<int32_t> encode(std::string_view text, bool add_special) const;
  // Unknown ids contribute nothing.
  std::string decode(std::span<const int32_t> ids, bool skip_special) const;

  int32_t vocab_size() const;                       // highest id + 1, added tokens included
  const std::string& token_text(int32_t id) const;  // as written in the vocabulary ("Ġthe", "<0x0A>"); "" if unknown
  bool is_special(int32_t id) const;
  std::optional<int32_t> token_id(std::string_view token) const;  // by its text in the vocabulary

  // Named tokens of tokenizer_config.json ("bos_token" -> "<s>"), in effect also for templates.
  const std::map<std::string, std::string, std::less<>>& special_tokens() const;
  std::optional<int32_t> bos_id() const;
  std::optional<int32_t> eos_id() const;
  std::optional<int32_t> pad_id() const;

  const DecodeTable& decode_table() const;  // for Detokenizer

 private:
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace sluice
