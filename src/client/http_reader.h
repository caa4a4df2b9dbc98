// SPDX-License-Identifier: Apache-2.0
// Takes an HTTP/1.1 reply apart as its bytes arrive. Pure: no socket. One object per connection, reset() per reply.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace sluice {

struct ReplyHead {
  int status = 0;
  std::vector<std::pair<std::string, std::string>> headers;  // names in lower case
  std::string_view get(std::string_view lower_name) const;   // empty when absent
};

class HttpReader {
 public:
  // Called with pieces of the body, without chunk framing. False stops reading.
  using OnBody = std::function<bool(std::string_view)>;

  void reset(bool head_request = false);
  // Consumes `bytes` up to the end of the reply; what is left over belongs to the next. Throws Error on what is not
  // HTTP, or on a head larger than 256 KiB.
  size_t feed(std::string_view bytes, const OnBody& on_body);
  // The connection closed: true when the reply is complete by that.
  bool finish();

  bool has_head() const { return state_ > State::kHead; }
  bool done() const { return state_ == State::kDone; }
  bool stopped() const { return stopped_; }  // by on_body
  bool keep_alive() const { return keep_alive_; }
  const ReplyHead& head() const { return head_; }

 private:
  enum class State { kHead, kLength, kUntilClose, kChunkSize, kChunk, kChunkEnd, kTrailer, kDone };
  void read_head(std::string_view text);
  // Takes up to and including the next line feed into line_; true when the line is whole.
  bool take_line(std::string_view bytes, size_t& at);

  State state_ = State::kHead;
  bool head_request_ = false, keep_alive_ = true, stopped_ = false;
  uint64_t left_ = 0;  // bytes of the body or chunk
  std::string line_;   // head, or a line of the chunk framing
  ReplyHead head_;
};

}  // namespace sluice
