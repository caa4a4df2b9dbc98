// SPDX-License-Identifier: Apache-2.0
// A SentencePiece model of type Unigram, as T5Converter of transformers rewrites it: T5 and what is built like it.
#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "text/base64.h"
#include "text/import.h"
#include "text/json_parts.h"
#include "text/sentencepiece_file.h"

namespace sluice {
namespace {
constexpr std::string_view kSpace = "\xE2\x96\x81";  // U+2581
constexpr int64_t kMaxExtra = 10000;

int64_t extra_ids(const Value& config, const std::string& origin) {
  const Value* value = config.find("extra_ids");
  if (value == nullptr || value->is_null()) return 100;
  if (!value->is_int() || value->as_int() < 0 || value->as_int() > kMaxExtra)
    throw Error(fmt::format("{}: extra_ids is {}, expected 0 to {}", origin, value->dump_compact(), kMaxExtra));
  return value->as_int();
}
}  // namespace

ImportedTokenizer import_unigram(const SentencePieceFile& model, const Value& config, const std::string& origin) {
  using File = SentencePieceFile;
  ImportedTokenizer out;
  out.origin = origin;
  Dict filled = config.as_dict();
  if (filled.find("tokenizer_class") == nullptr) filled.set("tokenizer_class", "T5Tokenizer");
  const std::string class_name = text_of(filled, "tokenizer_class");
  if (class_name != "T5Tokenizer" && class_name != "T5TokenizerFast") {
    throw Error(fmt::format(
        "{}: a SentencePiece model of type UNIGRAM and tokenizer_class {}, expected T5Tokenizer: others put their "
        "special tokens by rules that are not in the file. Convert the tokenizer once with transformers "
        "(AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)).",
        origin, class_name));
  }

  List vocab, added;
  int64_t eos = -1;
  for (const File::Piece& piece : model.pieces) {
    const int64_t id = static_cast<int64_t>(vocab.size());
    if (piece.text == "</s>") eos = id;
    vocab.push_back(List{piece.text, static_cast<double>(piece.score)});
    if (piece.type == File::kControl || piece.type == File::kUserDefined)
      added.push_back(added_token(id, piece.text, false, piece.type == File::kControl));
  }
  if (eos < 0) throw Error(fmt::format("{}: no piece </s>, expected T5's end of text", origin));
  // Sentinels follow the pieces, the last one first.
  List sentinels;
  const int64_t extra = extra_ids(config, origin);
  for (int64_t i = extra - 1; i >= 0; --i) vocab.push_back(List{fmt::format("<extra_id_{}>", i), 0.0});
  for (int64_t i = 0; i < extra; ++i) sentinels.push_back(Value(fmt::format("<extra_id_{}>", i)));
  if (filled.find("additional_special_tokens") == nullptr)
    filled.set("additional_special_tokens", std::move(sentinels));
  for (const auto& [key, usual] : {std::pair("eos_token", "</s>"), {"unk_token", "<unk>"}, {"pad_token", "<pad>"}}) {
    if (filled.find(key) == nullptr) filled.set(key, usual);
  }

  List before;
  if (!model.charsmap.empty()) {
    before.push_back(json_dict({{"type", "Precompiled"}, {"precompiled_charsmap", encode_base64(model.charsmap)}}));
  }
  before.push_back(json_dict({{"type", "Strip"}, {"strip_left", false}, {"strip_right", true}}));
  before.push_back(replace_part("Regex", " {2,}", kSpace));
  const Value metaspace = json_dict({{"type", "Metaspace"},
                                     {"replacement", kSpace},
                                     {"prepend_scheme", flag_of(config, "legacy", true) ? "always" : "first"},
                                     {"split", true}});
  out.json = json_dict(
      {{"added_tokens", std::move(added)},
       {"normalizer", sequence_of("normalizers", std::move(before))},
       {"pre_tokenizer", metaspace},
       {"post_processor", one_token_template("</s>", eos, true)},
       {"decoder", metaspace},
       {"model",
        json_dict(
            {{"type", "Unigram"}, {"unk_id", model.unk}, {"byte_fallback", false}, {"vocab", std::move(vocab)}})}});
  out.config = std::move(filled);
  return out;
}

}  // namespace sluice
