// SPDX-License-Identifier: Apache-2.0
// A SentencePiece model (a protocol buffer) of type BPE, as LlamaConverter of transformers rewrites it: merges are not
// in the file but follow from the pieces and their scores.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <unordered_map>

#include "base/error.h"
#include "text/import.h"
#include "text/json_parts.h"
#include "text/unicode.h"

namespace sluice {
namespace {
constexpr std::string_view kSpace = "\xE2\x96\x81";  // U+2581
constexpr size_t kMaxPiece = 256;                    // bytes

enum PieceType : uint64_t { kNormal = 1, kUnknown, kControl, kUserDefined, kUnused, kByte };

// Fields of one message, in order.
class ProtoReader {
 public:
  ProtoReader(std::string_view bytes, const std::string& origin, size_t at)
      : bytes_(bytes), origin_(origin), base_(at) {}

  struct Field {
    uint64_t number = 0;
    uint64_t value = 0;      // varint, or the bits of a fixed one
    std::string_view bytes;  // of a length-delimited one
    bool delimited = false;
    size_t at = 0;  // of `bytes` in the file
  };
  bool next(Field& field) {
    if (at_ == bytes_.size()) return false;
    const uint64_t key = varint();
    field = {key >> 3, 0, {}, false, 0};
    switch (key & 7) {
      case 0:
        field.value = varint();
        break;
      case 1:
        field.value = fixed(8);
        break;
      case 2: {
        const uint64_t size = varint();
        if (size > bytes_.size() - at_)
          refuse(fmt::format("a field of {} bytes, {} are left", size, bytes_.size() - at_));
        field.bytes = bytes_.substr(at_, size);
        field.delimited = true;
        field.at = base_ + at_;
        at_ += size;
        break;
      }
      case 5:
        field.value = fixed(4);
        break;
      default:
        refuse(fmt::format("wire type {}, expected 0, 1, 2 or 5", key & 7));
    }
    if (field.number == 0) refuse("field number 0");
    return true;
  }
  [[noreturn]] void refuse(const std::string& what) const {
    throw Error(fmt::format("{}: byte {}: not a SentencePiece model: {}", origin_, base_ + at_, what));
  }

 private:
  uint64_t varint() {
    uint64_t out = 0;
    for (int shift = 0; shift < 70; shift += 7) {
      if (at_ == bytes_.size()) refuse("the file ends inside a number");
      const auto byte = static_cast<uint8_t>(bytes_[at_++]);
      if (shift == 63 && byte > 1) refuse("a number of more than 64 bits");
      out |= static_cast<uint64_t>(byte & 0x7f) << shift;
      if (byte < 0x80) return out;
    }
    refuse("a number of more than 64 bits");
  }
  uint64_t fixed(size_t n) {
    if (bytes_.size() - at_ < n) refuse("the file ends inside a number");
    uint64_t out = 0;
    for (size_t i = 0; i < n; ++i) out |= static_cast<uint64_t>(static_cast<uint8_t>(bytes_[at_ + i])) << (8 * i);
    at_ += n;
    return out;
  }
  std::string_view bytes_;
  const std::string& origin_;
  size_t base_, at_ = 0;
};

struct Piece {
  std::string text;
  float score = 0.0f;
  uint64_t type = kNormal;
};

// What of the file matters, with the format's defaults.
struct SentencePiece {
  std::vector<Piece> pieces;
  uint64_t model_type = 1;
  bool space_as_suffix = false;
  int64_t unk = 0, bos = 1, eos = 2, pad = -1;
  bool charsmap = false, dummy_prefix = true, remove_spaces = true, escape_spaces = true;
};

Piece read_piece(const ProtoReader::Field& message, const std::string& origin, size_t index) {
  Piece out;
  ProtoReader reader(message.bytes, origin, message.at);
  for (ProtoReader::Field field; reader.next(field);) {
    if (field.number == 1 && field.delimited) out.text = field.bytes;
    if (field.number == 2) {
      const auto bits = static_cast<uint32_t>(field.value);
      std::memcpy(&out.score, &bits, sizeof bits);
    }
    if (field.number == 3) out.type = field.value;
  }
  const auto refuse = [&](const std::string& what) {
    throw Error(fmt::format("{}: piece {}: {}", origin, index, what));
  };
  if (!is_utf8(out.text)) refuse("expected UTF-8 text");
  if (out.text.empty()) refuse("expected a text, found none");
  if (out.text.size() > kMaxPiece) refuse(fmt::format("{} bytes, expected at most {}", out.text.size(), kMaxPiece));
  if (out.score != out.score) refuse("the score is not a number");
  if (out.type == kUnused) refuse(fmt::format("{} is of type UNUSED, which is not supported", out.text));
  if (out.type < kNormal || out.type > kByte) refuse(fmt::format("type {}, expected 1 to 6", out.type));
  return out;
}

int64_t as_id(uint64_t value) { return static_cast<int32_t>(value); }

SentencePiece parse(std::string_view file, const std::string& origin) {
  SentencePiece out;
  ProtoReader reader(file, origin, 0);
  for (ProtoReader::Field field; reader.next(field);) {
    if (!field.delimited) continue;
    if (field.number == 1) out.pieces.push_back(read_piece(field, origin, out.pieces.size()));
    if (field.number != 2 && field.number != 3) continue;
    ProtoReader inner(field.bytes, origin, field.at);
    for (ProtoReader::Field item; inner.next(item);) {
      const bool on = item.value != 0;
      if (field.number == 2) {
        if (item.number == 3) out.model_type = item.value;
        if (item.number == 24) out.space_as_suffix = on;
        if (item.number == 40) out.unk = as_id(item.value);
        if (item.number == 41) out.bos = as_id(item.value);
        if (item.number == 42) out.eos = as_id(item.value);
        if (item.number == 43) out.pad = as_id(item.value);
      } else {
        if (item.number == 2) out.charsmap = !item.bytes.empty();
        if (item.number == 3) out.dummy_prefix = on;
        if (item.number == 4) out.remove_spaces = on;
        if (item.number == 5) out.escape_spaces = on;
      }
    }
  }
  return out;
}

void refuse_unsupported(const SentencePiece& model, const std::string& origin) {
  const auto refuse = [&](const std::string& what) { throw Error(fmt::format("{}: {}", origin, what)); };
  if (model.pieces.empty()) refuse("not a SentencePiece model: it holds no pieces");
  constexpr const char* kTypes[] = {"", "UNIGRAM", "BPE", "WORD", "CHAR"};
  if (model.model_type != 2) {
    refuse(fmt::format("a SentencePiece model of type {} is not supported, only BPE is",
                       model.model_type < 5 ? kTypes[model.model_type] : std::to_string(model.model_type)));
  }
  if (model.charsmap) refuse("its normalisation (precompiled_charsmap) is not supported, only identity is");
  if (model.space_as_suffix) refuse("treat_whitespace_as_suffix is not supported");
  if (!model.escape_spaces) refuse("escape_whitespaces false is not supported");
  if (model.unk < 0 || model.unk >= static_cast<int64_t>(model.pieces.size()))
    refuse(fmt::format("unk_id is {}, expected one of the {} pieces", model.unk, model.pieces.size()));
}

// Each split of a piece into two others; the best score first, then the longer left, then the longer right half.
List derive_merges(const SentencePiece& model, const std::unordered_map<std::string_view, int64_t>& ids) {
  struct Split {
    int64_t left, right;
    float score;
    size_t left_codes, right_codes;
    std::string_view left_text, right_text;
  };
  std::vector<Split> all;
  for (const Piece& piece : model.pieces) {
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

Value replace_part(const char* kind, const char* pattern, std::string_view content) {
  return json_dict({{"type", "Replace"}, {"pattern", json_dict({{kind, pattern}})}, {"content", content}});
}

Value sequence_of(const char* key, List items) { return json_dict({{"type", "Sequence"}, {key, std::move(items)}}); }
}  // namespace

ImportedTokenizer import_sentencepiece(std::string_view file, const Value& config, const std::string& origin) {
  const SentencePiece model = parse(file, origin);
  refuse_unsupported(model, origin);
  std::unordered_map<std::string_view, int64_t> ids;
  Dict vocab;
  vocab.reserve(model.pieces.size());
  List added;
  for (size_t i = 0; i < model.pieces.size(); ++i) {
    const Piece& piece = model.pieces[i];
    const int64_t id = static_cast<int64_t>(i);
    if (const auto [known, fresh] = ids.emplace(piece.text, id); !fresh)
      throw Error(fmt::format("{}: pieces {} and {} are both {}", origin, known->second, id, piece.text));
    vocab.set(piece.text, id);
    if (piece.type == kControl || piece.type == kUserDefined)
      added.push_back(added_token(id, piece.text, false, piece.type == kControl));
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
    if (filled.find(key) == nullptr && id >= 0 && id < static_cast<int64_t>(model.pieces.size()))
      filled.set(key, model.pieces[static_cast<size_t>(id)].text);
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
                               {"unk_token", model.pieces[static_cast<size_t>(model.unk)].text},
                               {"fuse_unk", true},
                               {"byte_fallback", true},
                               {"vocab", std::move(vocab)},
                               {"merges", derive_merges(model, ids)}}));
  out.config = std::move(filled);
  out.json = std::move(json);
  return out;
}

}  // namespace sluice
