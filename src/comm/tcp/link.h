// SPDX-License-Identifier: Apache-2.0
// One connection: messages out, messages in. Never waits. Owned by Links, which serialises the calls.
#pragma once

#include <poll.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <vector>

namespace sluice::tcp {

class Link {
 public:
  Link(int rank, int fd) : rank_(rank), fd_(fd) {}
  Link(Link&& other) noexcept;
  Link(const Link&) = delete;
  Link& operator=(const Link&) = delete;
  Link& operator=(Link&&) = delete;
  ~Link();

  int fd() const { return fd_; }
  bool sending() const { return queued_ > 0 || span_.left > 0; }  // has something to write
  bool writing_span() const { return span_.left > 0; }
  bool receiving() const { return wanted_.active; }
  size_t queued() const { return queued_; }  // bytes copied and not yet written

  void begin_send(uint32_t channel, const void* data, size_t bytes);
  void send(uint32_t channel, const void* data, size_t bytes);  // copies what the socket does not take at once
  void begin_recv(uint32_t channel, void* data, size_t bytes);

  // Each returns whether anything moved. A peer that has gone ends the process: see lost().
  bool write();
  bool read();

 private:
  struct Header {
    uint32_t channel = 0;
    uint32_t magic = kMagic;
    uint64_t bytes = 0;
  };
  static constexpr uint32_t kMagic = 0x65636c73;
  struct Span {  // of the caller, with the header before it
    Header header;
    const char* data = nullptr;
    size_t left = 0;  // bytes of header and data
  };
  struct Message {
    uint32_t channel = 0;
    std::vector<char> bytes;
    size_t done = 0;
  };
  struct Wanted {
    uint32_t channel = 0;
    char* data = nullptr;
    size_t bytes = 0;
    bool active = false;
  };

  bool write_span();  // false: the socket takes no more
  size_t receive(void* to, size_t bytes);
  bool parse();
  void begin_message();
  void end_message();
  Message fresh(uint32_t channel, size_t bytes);
  [[noreturn]] void lost(int error);

  const int rank_;  // of the peer
  int fd_;
  Span span_;
  std::deque<Message> queue_;  // out, before span_
  size_t queued_ = 0;

  static constexpr size_t kBuffer = 64 << 10;
  std::vector<char> buffer_ = std::vector<char>(kBuffer);
  size_t begin_ = 0, end_ = 0;  // unread part of the buffer
  bool inside_ = false;         // a message whose header was read
  Header header_;
  char* to_ = nullptr;  // where the rest of that message goes
  size_t rest_ = 0;
  bool direct_ = false;  // into wanted_
  Message early_;        // that message, when nobody has asked for it yet
  Wanted wanted_;
  std::deque<Message> kept_;      // arrived before they were asked for
  std::vector<Message> storage_;  // of messages that are done with
};

}  // namespace sluice::tcp
