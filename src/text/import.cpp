// SPDX-License-Identifier: Apache-2.0
#include "text/import.h"

#include <fmt/format.h>

#include "base/error.h"
#include "base/file.h"
#include "text/model_files.h"

namespace sluice {
namespace fs = std::filesystem;

namespace {
std::string read_bounded(const fs::path& file) {
  constexpr uintmax_t kMaxBytes = 64 << 20;  // the largest known is 7 MB
  const uintmax_t size = fs::file_size(file);
  if (size > kMaxBytes)
    throw Error(fmt::format("{} has {} bytes, expected a vocabulary of at most {}", file.string(), size, kMaxBytes));
  return read_file(file);
}
}  // namespace

std::optional<ImportedTokenizer> import_tokenizer(const fs::path& model_dir, const Value& config) {
  const fs::path vocab = model_dir / "vocab.json", merges = model_dir / "merges.txt";
  const fs::path spiece = model_dir / "spiece.model";  // T5's name for it
  const fs::path model = fs::exists(spiece) ? spiece : model_dir / "tokenizer.model";
  const fs::path extra = model_dir / "added_tokens.json";
  if (fs::exists(vocab) && fs::exists(merges)) {
    return import_merges(parse_object(read_bounded(vocab), vocab.string()), read_bounded(merges),
                         fs::exists(extra) ? parse_object(read_bounded(extra), extra.string()) : Value(), config,
                         merges.string());
  }
  if (!fs::exists(model)) return std::nullopt;
  const std::string content = read_bounded(model);
  return is_tiktoken(content) ? import_tiktoken(content, config, model.string())
                              : import_sentencepiece(content, config, model.string());
}

}  // namespace sluice
