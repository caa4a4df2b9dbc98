// SPDX-License-Identifier: Apache-2.0
// Writes the streamed replies of all connections. One thread takes what streams have to say and sends it without
// waiting for any reader, so that the tokens of a step cost one wake-up and not one per stream. A stream whose reader
// does not keep up goes back to its connection's thread, which waits for that reader alone.
#pragma once

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "api/http.h"

namespace sluice {

// Waits for room where the socket has none; false when the peer is gone or takes nothing for `seconds`.
bool send_all(int fd, std::string_view data, double seconds);

class StreamPump {
 public:
  class Stream;

  // `stall`: as send_all. `silence`: seconds without a byte after which Reply::keep_alive goes out.
  StreamPump(double stall, double silence);
  ~StreamPump();  // no Stream::write may be under way

 private:
  const double stall_, silence_;
  void push(std::shared_ptr<Stream> stream);
  void loop();
  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<std::shared_ptr<Stream>> queue_;
  bool sleeping_ = false, closing_ = false;
  std::thread thread_;
};

class StreamPump::Stream : public std::enable_shared_from_this<Stream> {
 public:
  explicit Stream(StreamPump& pump) : pump_(pump) {}

  // Reply::stream may have something to append. Any thread, at any time, also when the stream is over and the pump
  // gone.
  void ready();
  // Sends reply.stream to its end, in chunks or as it is, and blocks until then. False: the connection is of no further
  // use.
  bool write(int fd, bool chunked, Reply& reply);

 private:
  friend class StreamPump;
  // Who may touch the fields below. kBusy: the pump or the connection, whichever has taken it; kBusyAgain: likewise,
  // and ready() was called meanwhile.
  enum class State : uint8_t { kResting, kQueued, kBusy, kBusyAgain, kOver };

  void serve();  // the pump's turn
  void render();
  void frame();
  bool send_some();  // false: not all of it
  bool rest();       // false: ready() was called
  bool wait_returned(double until);

  StreamPump& pump_;
  std::atomic<State> state_{State::kBusy};
  int fd_ = -1;
  bool chunked_ = false, ended_ = false, broken_ = false;
  Reply* reply_ = nullptr;
  std::string out_;
  size_t sent_ = 0;     // bytes of out_
  double written_ = 0;  // monotonic seconds of the last bytes

  std::mutex mutex_;
  std::condition_variable wake_;
  bool returned_ = false;  // the pump has left the stream to the connection
};

}  // namespace sluice
