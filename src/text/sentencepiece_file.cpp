// SPDX-License-Identifier: Apache-2.0
#include "text/sentencepiece_file.h"

#include <fmt/format.h>

#include <cstring>

#include "base/error.h"
#include "text/unicode.h"

namespace sluice {
namespace {
constexpr size_t kMaxPiece = 256;  // bytes

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

SentencePieceFile::Piece read_piece(const ProtoReader::Field& message, const std::string& origin, size_t index) {
  using File = SentencePieceFile;
  File::Piece out;
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
  if (out.type == File::kUnused) refuse(fmt::format("{} is of type UNUSED, which is not supported", out.text));
  if (out.type < File::kNormal || out.type > File::kByte) refuse(fmt::format("type {}, expected 1 to 6", out.type));
  return out;
}

int64_t as_id(uint64_t value) { return static_cast<int32_t>(value); }
}  // namespace

SentencePieceFile SentencePieceFile::parse(std::string_view bytes, const std::string& origin) {
  SentencePieceFile out;
  ProtoReader reader(bytes, origin, 0);
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
        if (item.number == 2) out.charsmap = item.bytes;
        if (item.number == 3) out.dummy_prefix = on;
        if (item.number == 4) out.remove_spaces = on;
        if (item.number == 5) out.escape_spaces = on;
      }
    }
  }
  const auto refuse = [&](const std::string& what) { throw Error(fmt::format("{}: {}", origin, what)); };
  if (out.pieces.empty()) refuse("not a SentencePiece model: it holds no pieces");
  if (!out.holds(out.unk))
    refuse(fmt::format("unk_id is {}, expected one of the {} pieces", out.unk, out.pieces.size()));
  if (out.space_as_suffix) refuse("treat_whitespace_as_suffix is not supported");
  if (!out.escape_spaces) refuse("escape_whitespaces false is not supported");
  return out;
}

}  // namespace sluice
