// SPDX-License-Identifier: Apache-2.0
#include "text/detokenizer.h"

#include <algorithm>
#include <cstring>

#include "text/decoder.h"
#include "text/unicode.h"

namespace sluice {

Detokenizer::Detokenizer(const Tokenizer& tokenizer, bool skip_special, std::span<const int32_t> prompt)
    : table_(&tokenizer.decode_table()), skip_special_(skip_special) {
  reset(prompt);
}

Detokenizer::Detokenizer(const DecodeTable& table, bool skip_special, bool whole_runs)
    : table_(&table), skip_special_(skip_special), whole_runs_(whole_runs) {
  reset();
}

void Detokenizer::reset(std::span<const int32_t> prompt) {
  first_token_ = true;
  pending_ = -1;
  strip_left_ = table_->strip_left;
  in_run_ = bad_run_ = false;
  n_held_ = 0;
  run_.clear();
  if (prompt.empty()) return;
  std::string before;  // the prompt's own text, dropped
  for (const int32_t id : prompt) {
    append(id, before);
    before.clear();
  }
}

void Detokenizer::emit(std::string_view text, std::string& out) {
  for (; strip_left_ > 0 && !text.empty(); --strip_left_) {
    if (!text.starts_with(table_->strip)) {
      strip_left_ = 0;
      break;
    }
    text.remove_prefix(table_->strip.size());
  }
  out += text;
}

// Bytes of ByteLevel tokens: well-formed characters go out, ill-formed parts become U+FFFD, the tail is held.
void Detokenizer::append_bytes(std::string_view bytes, std::string& out) {
  for (size_t at = 0; at < bytes.size();) {
    if (n_held_ == 0) {
      const size_t begin = at;
      while (at < bytes.size() && static_cast<uint8_t>(bytes[at]) < 0x80) ++at;
      if (at > begin) emit(bytes.substr(begin, at - begin), out);
      if (at == bytes.size()) return;
    }
    held_bytes_[n_held_++] = bytes[at++];
    const int state = utf8_state(held_bytes_, n_held_);
    if (state == 0) continue;
    if (state == 1) {
      emit({held_bytes_, n_held_}, out);
    } else {
      emit(kReplacementText, out);
      if (n_held_ > 1) --at;  // the byte that broke the part may start a character
    }
    n_held_ = 0;
  }
}

// The run of <0xHH> tokens is over.
void Detokenizer::end_run(std::string& out) {
  if (!in_run_) return;
  if (whole_runs_) {
    if (is_utf8(run_)) {
      emit(run_, out);
    } else {
      for (size_t i = 0; i < run_.size(); ++i) emit(kReplacementText, out);
    }
    run_.clear();
  } else {
    for (uint8_t i = 0; i < n_held_; ++i) emit(kReplacementText, out);
    n_held_ = 0;
  }
  in_run_ = bad_run_ = false;
}

namespace {
size_t shared_size(std::string_view a, std::string_view b) {
  const size_t n = std::min(a.size(), b.size());
  return static_cast<size_t>(std::mismatch(a.begin(), a.begin() + static_cast<std::ptrdiff_t>(n), b.begin()).first -
                             a.begin());
}
}  // namespace

// The pending token turns out to read `form`; what it shares with its other form is out already.
void Detokenizer::end_token(std::string_view form, std::string& out) {
  const size_t id = static_cast<size_t>(pending_);
  emit(form.substr(shared_size(table_->text(id), table_->last_text(id))), out);
  pending_ = -1;
}

void Detokenizer::append(int32_t id, std::string& out) {
  if (id < 0 || static_cast<size_t>(id) >= table_->size()) return;
  const size_t at = static_cast<size_t>(id);
  if (skip_special_ && table_->special[at] != 0) return;
  if (pending_ >= 0) end_token(table_->text(static_cast<size_t>(pending_)), out);
  std::string_view text = first_token_ ? table_->first_text(at) : table_->text(at);
  if (!first_token_ && !table_->separator.empty()) emit(table_->separator, out);
  first_token_ = false;
  if (table_->bytes == DecodeTable::Bytes::kByteLevel) return append_bytes(text, out);
  if (table_->is_byte[at] == 0) {
    end_run(out);
    if (table_->last_differs) {
      pending_ = id;
      text = text.substr(0, shared_size(text, table_->last_text(at)));
    }
    return emit(text, out);
  }
  in_run_ = true;
  if (whole_runs_) {
    run_ += text;
    return;
  }
  if (bad_run_) return emit(kReplacementText, out);
  held_bytes_[n_held_++] = text[0];
  const int state = utf8_state(held_bytes_, n_held_);
  if (state == 1) emit({held_bytes_, n_held_}, out);
  if (state < 0) {
    bad_run_ = true;
    for (uint8_t i = 0; i < n_held_; ++i) emit(kReplacementText, out);
  }
  if (state != 0) n_held_ = 0;
}

void Detokenizer::finish(std::string& out) {
  if (pending_ >= 0) end_token(table_->last_text(static_cast<size_t>(pending_)), out);
  end_run(out);
  if (n_held_ > 0) emit(kReplacementText, out);
  n_held_ = 0;
}

}  // namespace sluice
