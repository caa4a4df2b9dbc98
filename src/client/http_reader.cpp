// SPDX-License-Identifier: Apache-2.0
#include "client/http_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "base/error.h"

namespace sluice {
namespace {

constexpr size_t kMaxHead = 256 << 10;
constexpr size_t kMaxLine = 16 << 10;

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c + 32);
  return out;
}

std::string_view trim(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t' || text.back() == '\r')) text.remove_suffix(1);
  return text;
}

uint64_t number(std::string_view text, int base, std::string_view what) {
  uint64_t value = 0;
  auto result = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (text.empty() || result.ec != std::errc() || result.ptr != text.data() + text.size())
    throw Error(fmt::format("the server's reply is not HTTP/1.1: \"{}\" is no {}", text.substr(0, 40), what));
  return value;
}

}  // namespace

std::string_view ReplyHead::get(std::string_view lower_name) const {
  for (const auto& [name, value] : headers)
    if (name == lower_name) return value;
  return {};
}

void HttpReader::reset(bool head_request) {
  state_ = State::kHead;
  head_request_ = head_request;
  keep_alive_ = true;
  stopped_ = false;
  left_ = 0;
  line_.clear();
  head_ = {};
}

bool HttpReader::take_line(std::string_view bytes, size_t& at) {
  size_t end = bytes.find('\n', at);
  size_t stop = end == std::string_view::npos ? bytes.size() : end + 1;
  line_.append(bytes.substr(at, stop - at));
  at = stop;
  if (line_.size() > kMaxLine) throw Error("the server's reply is not HTTP/1.1: a line of its framing has no end");
  return end != std::string_view::npos;
}

void HttpReader::read_head(std::string_view text) {
  size_t end = text.find('\n');
  std::string_view first = trim(text.substr(0, end));
  if (first.substr(0, 7) != "HTTP/1." || first.size() < 12)
    throw Error(fmt::format("the server does not speak HTTP/1.1: its reply starts with \"{}\"", first.substr(0, 40)));
  head_ = {};
  head_.status = static_cast<int>(number(first.substr(9, 3), 10, "status"));
  keep_alive_ = first[7] != '0';
  for (size_t at = end + 1; at < text.size();) {
    size_t stop = std::min(text.find('\n', at), text.size());
    std::string_view line = text.substr(at, stop - at);
    at = stop + 1;
    size_t colon = line.find(':');
    if (colon == std::string_view::npos) continue;
    head_.headers.emplace_back(lower(trim(line.substr(0, colon))), std::string(trim(line.substr(colon + 1))));
  }
  const std::string connection = lower(head_.get("connection"));
  if (connection == "close") keep_alive_ = false;
  if (connection == "keep-alive") keep_alive_ = true;
  if (head_.status / 100 == 1) {
    state_ = State::kHead;  // 100 Continue comes before the reply
  } else if (head_request_ || head_.status == 204 || head_.status == 304) {
    state_ = State::kDone;
  } else if (lower(head_.get("transfer-encoding")) == "chunked") {
    state_ = State::kChunkSize;
  } else if (std::string_view length = head_.get("content-length"); !length.empty()) {
    left_ = number(length, 10, "length");
    state_ = left_ > 0 ? State::kLength : State::kDone;
  } else {
    keep_alive_ = false;
    state_ = State::kUntilClose;
  }
}

size_t HttpReader::feed(std::string_view bytes, const OnBody& on_body) {
  size_t at = 0;
  while (at < bytes.size() && state_ != State::kDone && !stopped_) {
    switch (state_) {
      case State::kHead: {
        // The blank line may straddle two reads.
        const size_t before = line_.size();
        line_.append(bytes.substr(at));
        size_t end = line_.find("\r\n\r\n", before < 3 ? 0 : before - 3);
        if (end == std::string::npos) {
          if (line_.size() > kMaxHead) throw Error("the server's reply has headers without end");
          return bytes.size();
        }
        at += end + 4 - before;
        line_.resize(end + 2);
        const std::string text = std::move(line_);
        line_.clear();
        read_head(text);
        break;
      }
      case State::kLength:
      case State::kChunk:
      case State::kUntilClose: {
        size_t size = bytes.size() - at;
        if (state_ != State::kUntilClose) size = static_cast<size_t>(std::min<uint64_t>(size, left_));
        if (on_body && !on_body(bytes.substr(at, size))) stopped_ = true;
        at += size;
        if (state_ == State::kUntilClose) break;
        left_ -= size;
        if (left_ == 0) state_ = state_ == State::kLength ? State::kDone : State::kChunkEnd;
        break;
      }
      case State::kChunkSize:
        if (!take_line(bytes, at)) break;
        left_ = number(trim(std::string_view(line_).substr(0, line_.find_first_of(";\r\n"))), 16, "chunk size");
        line_.clear();
        state_ = left_ > 0 ? State::kChunk : State::kTrailer;
        break;
      case State::kChunkEnd:
      case State::kTrailer:
        if (!take_line(bytes, at)) break;
        if (line_ == "\r\n" || line_ == "\n") {
          state_ = state_ == State::kTrailer ? State::kDone : State::kChunkSize;
        } else if (state_ == State::kChunkEnd) {
          throw Error("the server's reply is not HTTP/1.1: a chunk is longer than it says");
        }
        line_.clear();
        break;
      case State::kDone:
        break;
    }
  }
  return at;
}

bool HttpReader::finish() {
  if (state_ == State::kUntilClose) state_ = State::kDone;
  return state_ == State::kDone;
}

}  // namespace sluice
