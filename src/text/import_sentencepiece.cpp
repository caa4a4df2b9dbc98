// SPDX-License-Identifier: Apache-2.0
// A SentencePiece model of type BPE, as LlamaConverter of transformers rewrites it: merges are not
// in the file but follow from the pieces and their scores.
#include <fmt/format.h>

#include <algorithm>
#include <unordered_map>

#include "base/error.h"
#include "text/import.h"
#include "text/json_parts.h"
#include "text/sentencepiece_file.h"
#include "text/unicode.h"

namespace sluice {
namespace {
constexpr std::string_view kSpace = "\xE2\x96\x81";  // U+2581

// Each split of a piece into two others; the best score first, then the longer left, then the longer right half.
List derive_merges(const SentencePieceFile& model, const std::unordered_map<std::string_view, int64_t>& ids) {
  struct Split {
    int64_t left, right;
    float score;
    size_t left_codes, right_codes;
    std::string_view left_text, right_text;
  };
  std::vector<Split> all;
  for (const SentencePieceFile::Piece& piece : model.pieces) {
    const size_t first = all.size(), codes = count_codes(piece.text);
    const std::string_view text = piece.text;
    size_t at = 0, before = 0;
    for (next_code(text, at), ++before; at < text.size(); next_code(text, at), ++before) {
      const auto left = ids.find(text.substr(0, at)), right = ids.find(text.substr(at));
      if (left != ids.end() && right != ids.end())
        all.push_back(
            {left->second, right->second, piece.score, before, codes - before, text.substr(0, at), text.substr(at)});
    }
    std::sort(all.begin() + static_cast<std::ptrdiff_t>(first), all.end(),
              [](const Split& a, const Split& b) { return std::pair(a.left, a.right) < std::pair(b.left, b.right); });
  }
  std::stable_sort(all.begin(), all.end(), [](const Split& a, const Split& b) {
    return std::tuple(a.score, a.left_codes, a.right_codes) > std::tuple(b.score, b.left_codes, b.right_codes);
  });
  List out;
  out.reserve(all.size());
  for (const Split& split : all) out.push_back(List{split.left_text, split.right_text});
  return out;
}

}  // namespace

ImportedTokenizer import_sentencepiece(std::string_view file, const Value& config, const std::string& origin) {
  using File = SentencePieceFile;
  const File model = File::parse(file, origin);
  if (model.model_type == File::kUnigram) return import_unigram(model, config, origin);
  if (model.model_type != File::kBpe) {
    constexpr const char* kTypes[] = {"(none)", "UNIGRAM", "BPE", "WORD", "CHAR"};
    throw Error(fmt::format("{}: a SentencePiece model of type {} is not supported, expected UNIGRAM or BPE", origin,
                            model.model_type < 5 ? kTypes[model.model_type] : std::to_string(model.model_type)));
  }
  if (!model.charsmap.empty()) {
    throw Error(fmt::format(
        "{}: normalisation (precompiled_charsmap) of a BPE model is not supported, expected identity", origin));
  }
  std::unordered_map<std::string_view, int64_t> ids;
  Dict vocab;
  vocab.reserve(model.pieces.size());
  List added;
  for (size_t i = 0; i < model.pieces.size(); ++i) {
    const SentencePieceFile::Piece& piece = model.pieces[i];
    const int64_t id = static_cast<int64_t>(i);
    if (const auto [known, fresh] = ids.emplace(piece.text, id); !fresh)
      throw Error(fmt::format("{}: pieces {} and {} are both {}", origin, known->second, id, piece.text));
    vocab.set(piece.text, id);
    if (piece.type == File::kControl || piece.type == File::kUserDefined)
      added.push_back(added_token(id, piece.text, false, piece.type == File::kControl));
  }

  ImportedTokenizer out;
  out.origin = origin;
  Dict filled = config.as_dict();
  if (filled.find("tokenizer_class") == nullptr) filled.set("tokenizer_class", "LlamaTokenizer");
  const std::string class_name = text_of(filled, "tokenizer_class");
  const bool gemma = class_name.starts_with("GemmaTokenizer");
  if (!gemma && !class_name.starts_with("LlamaTokenizer") && !class_name.starts_with("CodeLlamaTokenizer")) {
    throw Error(fmt::format("{}: tokenizer_class is {}, expected LlamaTokenizer, CodeLlamaTokenizer or GemmaTokenizer",
                            origin, class_name));
  }
  const std::pair<const char*, int64_t> named[] = {
      {"unk_token", model.unk}, {"bos_token", model.bos}, {"eos_token", model.eos}, {"pad_token", model.pad}};
  for (const auto& [key, id] : named) {
    if (filled.find(key) == nullptr && model.holds(id)) filled.set(key, model.text(id));
  }

  const bool prefix = flag_of(config, "add_prefix_space", model.dummy_prefix && !gemma);
  Dict json;
  List before, after;
  if (model.remove_spaces) {
    before.push_back(replace_part("Regex", R"(\A +| +\z)", ""));
    before.push_back(replace_part("Regex", " {2,}", " "));
  }
  if (gemma || flag_of(config, "legacy", true)) {
    if (prefix) before.push_back(json_dict({{"type", "Prepend"}, {"prepend", kSpace}}));
    before.push_back(replace_part("String", " ", kSpace));
  } else {
    json.set("pre_tokenizer", json_dict({{"type", "Metaspace"},
                                         {"replacement", kSpace},
                                         {"prepend_scheme", prefix ? "first" : "never"},
                                         {"split", false}}));
  }
  if (!before.empty()) json.set("normalizer", sequence_of("normalizers", std::move(before)));
  after.push_back(replace_part("String", kSpace.data(), " "));
  after.push_back(json_dict({{"type", "ByteFallback"}}));
  after.push_back(json_dict({{"type", "Fuse"}}));
  if (prefix) after.push_back(json_dict({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}}));
  json.set("decoder", sequence_of("decoders", std::move(after)));
  json.set("added_tokens", std::move(added));
  json.set("model", json_dict({{"type", "BPE"},
                               {"unk_token", model.text(model.unk)},
                               {"fuse_unk", true},
                               {"byte_fallback", true},
                               {"vocab", std::move(vocab)},
                               {"merges", derive_merges(model, ids)}}));
  out.config = std::move(filled);
  out.json = std::move(json);
  return out;
}

}  // namespace sluice
