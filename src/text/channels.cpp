// SPDX-License-Identifier: Apache-2.0
#include "text/channels.h"

#include <algorithm>

namespace sluice {
namespace {
constexpr std::string_view kMessage = "<|message|>", kChannel = "<|channel|>", kFunction = "to=functions.";
constexpr std::string_view kEnds[] = {"<|end|>", "<|return|>", "<|call|>", "<|start|>", "<|channel|>"};
constexpr size_t kLongestHeader = 512;  // bytes; what goes on without a body is none

// The word that follows `mark`, up to a space or a marker.
std::string_view word_after(std::string_view text, std::string_view mark) {
  const size_t at = text.find(mark);
  if (at == std::string_view::npos) return {};
  const std::string_view rest = text.substr(at + mark.size());
  return rest.substr(0, rest.find_first_of(" <\n"));
}

// Bytes at the end of `text` that may be the begin of a marker.
size_t unsure(std::string_view text) {
  for (size_t n = std::min(text.size(), kMessage.size()); n > 0; --n) {
    const std::string_view tail = text.substr(text.size() - n);
    if (std::any_of(std::begin(kEnds), std::end(kEnds), [&](std::string_view end) { return end.starts_with(tail); }))
      return n;
  }
  return 0;
}
}  // namespace

bool speaks_channels(const Tokenizer& tokenizer) {
  return std::all_of(std::begin(kEnds), std::end(kEnds),
                     [&](std::string_view text) {
                       const auto id = tokenizer.token_id(text);
                       return id && tokenizer.is_special(*id);
                     }) &&
         tokenizer.token_id(kMessage).has_value();
}

void ChannelReader::open(std::string_view header) {
  opened_ = true;
  name_ = word_after(header, kFunction);
  place_ = !name_.empty()                            ? Place::kCall
           : word_after(header, kChannel) == "final" ? Place::kContent
                                                     : Place::kReasoning;
}

void ChannelReader::close(std::string& content) {
  if (place_ == Place::kCall) {
    content += "<tool_call>\n{\"name\": \"" + name_ + "\", \"arguments\": ";
    content += arguments_.empty() ? "{}" : arguments_;
    content += "}\n</tool_call>";
    arguments_.clear();
  }
  place_ = Place::kHeader;
}

void ChannelReader::read(std::string_view text, bool end, std::string& content, std::string& reasoning) {
  held_ += text;
  const auto say = [&](std::string_view some) {
    (place_ == Place::kContent ? content : place_ == Place::kCall ? arguments_ : reasoning) += some;
  };
  size_t at = 0;  // of what is done with
  while (true) {
    const std::string_view rest = std::string_view(held_).substr(at);
    if (place_ == Place::kHeader) {
      const size_t body = rest.find(kMessage);
      if (body != std::string_view::npos) {
        open(rest.substr(0, body));
        at += body + kMessage.size();
        continue;
      }
      if (opened_ || (!end && rest.size() <= kLongestHeader)) break;
      place_ = Place::kContent;  // no channels at all
      opened_ = true;
      continue;
    }
    size_t mark = rest.size(), length = 0;
    for (const std::string_view one : kEnds) {
      if (const size_t found = rest.find(one); found < mark) mark = found, length = one.size();
    }
    if (length == 0) {
      const size_t sure = rest.size() - (end ? 0 : unsure(rest));
      say(rest.substr(0, sure));
      at += sure;
      break;
    }
    say(rest.substr(0, mark));
    at += mark + (rest.substr(mark, length) == kChannel ? 0 : length);  // a channel opens a header
    close(content);
  }
  held_.erase(0, at);
  if (end) close(content);
}

}  // namespace sluice
