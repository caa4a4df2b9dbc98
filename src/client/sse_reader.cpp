// SPDX-License-Identifier: Apache-2.0
#include "client/sse_reader.h"

namespace sluice {
namespace {

std::string_view without_return(std::string_view line) {
  if (line.ends_with('\r')) line.remove_suffix(1);
  return line;
}

}  // namespace

void LineReader::feed(std::string_view bytes, const OnLine& on_line) {
  while (true) {
    size_t end = bytes.find('\n');
    if (end == std::string_view::npos) {
      held_.append(bytes);
      return;
    }
    if (held_.empty()) {
      on_line(without_return(bytes.substr(0, end)));
    } else {
      held_.append(bytes.substr(0, end));
      const std::string whole = std::move(held_);
      held_.clear();
      on_line(without_return(whole));
    }
    bytes.remove_prefix(end + 1);
  }
}

void LineReader::finish(const OnLine& on_line) {
  if (held_.empty()) return;
  const std::string whole = std::move(held_);
  held_.clear();
  on_line(without_return(whole));
}

void SseReader::feed(std::string_view bytes, const OnData& on_data) {
  lines_.feed(bytes, [&](std::string_view text) { line(text, on_data); });
}

void SseReader::line(std::string_view text, const OnData& on_data) {
  if (text.empty()) {
    if (any_) on_data(data_);
    data_.clear();
    any_ = false;
    return;
  }
  if (!text.starts_with("data")) return;
  text.remove_prefix(4);
  if (!text.empty() && text[0] != ':') return;
  if (!text.empty()) text.remove_prefix(1);
  if (text.starts_with(' ')) text.remove_prefix(1);
  if (any_) data_ += '\n';
  data_ += text;
  any_ = true;
}

}  // namespace sluice
