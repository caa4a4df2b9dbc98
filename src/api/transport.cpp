// SPDX-License-Identifier: Apache-2.0
#include "api/transport.h"

#include <fmt/format.h>
#include <httplib.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <unordered_set>

#include "api/pool.h"
#include "api/pump.h"
#include "api/watch.h"
#include "base/clock.h"
#include "base/descriptors.h"
#include "base/error.h"
#include "base/log.h"

namespace sluice {
namespace {

constexpr size_t kReadBuffer = 8192;
constexpr size_t kMaxPath = 1024;         // bytes; the library matches paths with a recursive regex
constexpr size_t kLingerBytes = 4 << 20;  // read and thrown away so that the reply is not lost in a reset
constexpr double kLingerSeconds = 1;

int milliseconds(double seconds) { return seconds <= 0 ? 0 : static_cast<int>(seconds * 1000) + 1; }

// The library's view of a socket, with deadlines and totals it does not have itself.
class Connection final : public httplib::Stream {
 public:
  Connection(int fd, const TransportOptions& options) : fd_(fd), options_(options), buffer_(kReadBuffer) {}

  // Waits for the first byte of a request.
  bool wait(double seconds) {
    if (begin_ < end_) return true;
    pollfd p{fd_, POLLIN, 0};
    int n;
    do n = poll(&p, 1, milliseconds(seconds));
    while (n < 0 && errno == EINTR);
    return n > 0;
  }
  void begin_request() {
    in_head_ = true;
    matched_ = 0;
    taken_ = 0;
    deadline_ = monotonic_seconds() + options_.head_seconds;
    timed_out = too_long = false;
  }
  void begin_body() {
    in_head_ = false;
    taken_ = 0;
  }

  ssize_t read(char* to, size_t size) override {
    // A body's framing may cost several times its content (chunks of one byte), not more.
    size_t limit = in_head_ ? options_.max_head : options_.max_head + 8 * options_.max_body;
    if (taken_ >= limit) {
      too_long = true;
      return -1;
    }
    if (begin_ == end_) {
      ssize_t n = fill();
      if (n <= 0) return n;
    }
    size = std::min({size, end_ - begin_, limit - taken_});
    std::memcpy(to, buffer_.data() + begin_, size);
    if (in_head_) hide_range(to, size);
    begin_ += size;
    taken_ += size;
    return static_cast<ssize_t>(size);
  }

  // Collected until flush(), so that headers and a short body leave in one packet.
  ssize_t write(const char* from, size_t size) override {
    out_.append(from, size);
    if (out_.size() > 65536 && !flush()) return -1;
    return static_cast<ssize_t>(size);
  }
  bool flush() {
    bool ok = send_all(fd_, out_, options_.write_seconds);
    out_.clear();
    return ok;
  }
  // Lets the peer read the reply before unread input turns the close into a reset.
  void linger() {
    ::shutdown(fd_, SHUT_WR);
    double until = monotonic_seconds() + kLingerSeconds;
    for (size_t total = 0; total < kLingerBytes;) {
      pollfd p{fd_, POLLIN, 0};
      if (poll(&p, 1, milliseconds(until - monotonic_seconds())) <= 0) break;
      ssize_t n = ::recv(fd_, buffer_.data(), buffer_.size(), MSG_DONTWAIT);
      if (n <= 0) break;
      total += static_cast<size_t>(n);
    }
  }

  bool is_readable() const override { return true; }
  bool is_writable() const override { return true; }
  socket_t socket() const override { return fd_; }
  void get_remote_ip_and_port(std::string&, int&) const override {}
  void get_local_ip_and_port(std::string&, int&) const override {}

  bool timed_out = false, too_long = false;

 private:
  // The library matches Range by a regular expression that recurses with the header's length: 8 KB of it overflow the
  // stack. A server may ignore Range, so the library never sees a header of that name.
  void hide_range(char* bytes, size_t size) {
    static constexpr std::string_view kName = "range";
    for (size_t i = 0; i < size; ++i) {
      if (bytes[i] == '\n') {
        matched_ = 0;
      } else if (matched_ < kName.size()) {
        const bool same = (bytes[i] | 0x20) == kName[matched_];
        matched_ = same ? matched_ + 1 : kName.size();
        if (same && matched_ == kName.size()) bytes[i] = '_';
      }
    }
  }
  ssize_t fill() {
    double wait_for = in_head_ ? deadline_ - monotonic_seconds() : options_.body_seconds;
    pollfd p{fd_, POLLIN, 0};
    int n;
    do n = poll(&p, 1, milliseconds(wait_for));
    while (n < 0 && errno == EINTR);
    if (n <= 0) {
      timed_out = true;
      return -1;
    }
    ssize_t got;
    do got = ::recv(fd_, buffer_.data(), buffer_.size(), 0);
    while (got < 0 && errno == EINTR);
    begin_ = 0;
    end_ = got > 0 ? static_cast<size_t>(got) : 0;
    return got;
  }

  int fd_;
  const TransportOptions& options_;
  std::vector<char> buffer_;
  size_t begin_ = 0, end_ = 0;  // unread part of buffer_
  std::string out_;
  bool in_head_ = true;
  size_t matched_ = 0;   // letters of "range" at the start of the head's line
  size_t taken_ = 0;     // bytes handed out in this phase
  double deadline_ = 0;  // of the head
};

// One request on one connection, found by the library's callbacks through `current`.
struct Exchange {
  Connection& connection;
  HttpRequest request;
  Reply reply;
  bool handled = false;  // our handler replied, not the library
  bool must_close = false;
  uint64_t ticket = 0;  // of the client watch
};
thread_local Exchange* current = nullptr;

}  // namespace

struct Transport::Impl : httplib::Server {
  Impl(int listening, TransportOptions options, Transport::Handler handle, Malformed refuse)
      : options_(options), handle_(std::move(handle)), refuse_(std::move(refuse)), listening_(listening) {
    raise_descriptor_limit();
    svr_sock_ = listening;  // the library stops its loops when this is invalid
    set_pre_routing_handler([this](const httplib::Request& in, httplib::Response& out) {
      bool body = in.method == "POST" && (in.has_header("Content-Length") || in.has_header("Transfer-Encoding"));
      if (body && in.path.size() <= kMaxPath && in.path.find_first_of("\r\n") == std::string::npos)
        return HandlerResponse::Unhandled;  // the handler below can read the body
      // A body that nobody reads would be taken for the next request.
      if (in.has_header("Transfer-Encoding") ||
          (in.has_header("Content-Length") && in.get_header_value("Content-Length") != "0"))
        current->must_close = true;
      answer(in, out, [] { return BodyResult::kOk; });
      return HandlerResponse::Handled;
    });
    Post(".*", [this](const httplib::Request& in, httplib::Response& out, const httplib::ContentReader& reader) {
      current->must_close = true;
      answer(in, out, [&] { return read_body(in, reader); });
      out.status = current->reply.status;  // the reader may have left its own
    });
    set_error_handler(httplib::Server::HandlerWithResponse([this](const httplib::Request&, httplib::Response& out) {
      if (current->handled) return HandlerResponse::Unhandled;
      current->must_close = true;
      if (current->connection.timed_out) out.status = 408;
      if (current->connection.too_long) out.status = 431;
      Reply reply;
      refuse_(out.status, reply);
      out.body = std::move(reply.body);
      for (const auto& [name, value] : reply.headers.items()) out.set_header(name, value);
      out.set_header("Connection", "close");
      out.set_header("Content-Length", std::to_string(out.body.size()));
      return HandlerResponse::Unhandled;
    }));
    acceptor_ = std::thread([this] { accept_loop(); });
  }

  void accept_loop() {
    while (!stopping_) {
      int fd = accept4(listening_, nullptr, nullptr, SOCK_CLOEXEC);
      if (fd < 0) {
        if (stopping_) break;
        // Descriptors or memory run short, or a connection died before it was taken: neither ends the server.
        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
          std::this_thread::sleep_for(std::chrono::milliseconds(5));
        continue;
      }
      bool full;
      {
        std::lock_guard lock(mutex_);
        full = static_cast<int>(open_.size()) >= options_.max_connections;
        if (!full) open_.insert(fd);
      }
      if (!full && options_.counted) options_.counted(1);
      if (full || !pool_.run([this, fd] { serve(fd); })) turn_away(fd, full);
    }
  }

  void turn_away(int fd, bool counted_full) {
    Reply reply;
    refuse_(503, reply);
    std::string text = fmt::format(
        "HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: "
        "{}\r\n\r\n{}",
        reply.body.size(), reply.body);
    (void)!::send(fd, text.data(), text.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (counted_full)
      close(fd);
    else
      forget(fd);
  }

  void forget(int fd) {
    if (options_.counted) options_.counted(-1);
    std::lock_guard lock(mutex_);
    open_.erase(fd);
    idle_.erase(fd);
    close(fd);
    if (open_.empty()) all_closed_.notify_all();
  }

  void serve(int fd) {
    Connection connection(fd, options_);
    bool first = true, unread = false;
    while (true) {
      {
        std::lock_guard lock(mutex_);
        if (stopping_ && !first) break;
        idle_.insert(fd);
      }
      bool arrived = connection.wait(first ? options_.head_seconds : options_.idle_seconds);
      {
        std::lock_guard lock(mutex_);
        idle_.erase(fd);
      }
      if (!arrived) break;
      connection.begin_request();
      Exchange exchange{connection, {}, {}};
      exchange.request.arrived = monotonic_seconds();
      current = &exchange;
      bool closed = false;
      bool ok = process_one(connection, stopping_, closed);
      current = nullptr;
      if (exchange.ticket != 0) watch_.remove(fd, exchange.ticket);
      ok = connection.flush() && ok;
      unread = exchange.must_close;
      if (!ok || closed || exchange.must_close) break;
      first = false;
    }
    if (unread) connection.linger();
    forget(fd);
  }

  // The library's own signature grew address arguments after the packaged version.
  bool process_one(Connection& connection, bool close_after, bool& closed) {
    // Replies go out whole and as they are: no ranges, no compression.
    auto prepare = [](httplib::Request& request) {
      request.ranges.clear();
      request.headers.erase("Accept-Encoding");
    };
    return call_process([this](auto&&... arguments) -> decltype(process_request(
                                                        arguments...)) { return process_request(arguments...); },
                        connection, close_after, closed, std::function<void(httplib::Request&)>(prepare));
  }
  template <class F>
  static bool call_process(F&& process, httplib::Stream& stream, bool close_after, bool& closed,
                           const std::function<void(httplib::Request&)>& prepare) {
    if constexpr (std::is_invocable_v<F, httplib::Stream&, bool&, bool&,
                                      const std::function<void(httplib::Request&)>&>) {
      return process(stream, close_after, closed, prepare);
    } else {
      std::string address;
      int port = 0;
      return process(stream, address, port, address, port, close_after, closed, prepare);
    }
  }

  BodyResult read_body(const httplib::Request& in, const httplib::ContentReader& reader) {
    HttpRequest& request = current->request;
    std::string encoding = in.get_header_value("Content-Encoding"), transfer = in.get_header_value("Transfer-Encoding");
    if (!encoding.empty() && encoding != "identity") return BodyResult::kUnsupported;
    if (in.get_header_value("Content-Type").rfind("multipart/", 0) == 0) return BodyResult::kUnsupported;
    std::string length = in.get_header_value("Content-Length");
    if (transfer.empty()) {
      if (length.empty() || length.size() > 18 || length.find_first_not_of("0123456789") != std::string::npos ||
          in.get_header_value_count("Content-Length") != 1)
        return BodyResult::kMalformed;
      uint64_t bytes = std::stoull(length);
      if (bytes > options_.max_body) return BodyResult::kTooLarge;
      request.body.reserve(bytes);
    } else if (!length.empty() || strcasecmp(transfer.c_str(), "chunked") != 0) {
      return BodyResult::kMalformed;
    }
    current->connection.begin_body();
    bool too_large = false;
    bool whole = reader([&](const char* data, size_t size) {
      too_large = request.body.size() + size > options_.max_body;
      if (!too_large) request.body.append(data, size);
      return !too_large;
    });
    if (too_large || current->connection.too_long) return BodyResult::kTooLarge;
    if (!whole) return current->connection.timed_out ? BodyResult::kBroken : BodyResult::kMalformed;
    current->must_close = false;
    return BodyResult::kOk;
  }

  void answer(const httplib::Request& in, httplib::Response& out, const ReadBody& read) {
    Exchange& exchange = *current;
    HttpRequest& request = exchange.request;
    request.method = in.method;
    request.path = in.path;
    for (const auto& [name, value] : in.headers) request.headers.add(name, value);
    exchange.handled = true;
    Reply& reply = exchange.reply;
    reply.when_gone = [this, &exchange](std::function<void()> gone) {
      exchange.ticket = watch_.add(exchange.connection.socket(), std::move(gone));
    };
    const auto stream = std::make_shared<StreamPump::Stream>(pump_);
    reply.ready = [stream] { stream->ready(); };
    handle_(request, read, reply);
    out.status = reply.status;
    // Request headers come back as they were sent; only ours leave.
    for (const auto& [name, value] : reply.headers.items())
      if (strcasecmp(name.c_str(), "content-type") != 0) out.set_header(name, value);
    if (exchange.must_close) out.set_header("Connection", "close");
    std::string type(reply.headers.get("content-type"));
    if (!reply.stream) {
      if (!type.empty()) out.set_header("Content-Type", type);
      out.body = std::move(reply.body);  // the library adds its length
      return;
    }
    bool chunked = in.version != "HTTP/1.0";
    if (chunked)
      out.set_header("Transfer-Encoding", "chunked");
    else
      exchange.must_close = true;
    out.set_content_provider(type, [this, &exchange, stream, chunked](size_t, httplib::DataSink& sink) {
      Connection& connection = exchange.connection;
      const bool ok = connection.flush() && stream->write(connection.socket(), chunked, exchange.reply);
      exchange.reply.stream = nullptr;  // what it holds is cancelled before the connection goes on
      sink.done();
      return ok;
    });
  }

  void stop(double grace) {
    {
      std::unique_lock lock(mutex_);
      if (stopped_) return;
      stopped_ = true;
      stopping_ = true;
      ::shutdown(listening_, SHUT_RDWR);  // wakes the acceptor
      for (int fd : idle_) ::shutdown(fd, SHUT_RDWR);
    }
    acceptor_.join();
    {
      std::unique_lock lock(mutex_);
      for (int fd : idle_) ::shutdown(fd, SHUT_RDWR);
      all_closed_.wait_for(lock, std::chrono::duration<double>(grace), [this] { return open_.empty(); });
      for (int fd : open_) ::shutdown(fd, SHUT_RDWR);
    }
    pool_.wait_empty();
    svr_sock_ = INVALID_SOCKET;
    close(listening_);
  }

  const TransportOptions options_;
  Transport::Handler handle_;
  Malformed refuse_;
  int listening_;
  std::atomic<bool> stopping_ = false;
  bool stopped_ = false;
  std::mutex mutex_;
  std::condition_variable all_closed_;
  std::unordered_set<int> open_, idle_;  // descriptors; idle: between requests
  ClientWatch watch_;
  StreamPump pump_{options_.write_seconds, options_.silence_seconds};
  ElasticPool pool_;
  std::thread acceptor_;
};

Transport::Transport(int listening, TransportOptions options, Handler handler, Malformed malformed)
    : impl_(std::make_unique<Impl>(listening, options, std::move(handler), std::move(malformed))) {}
Transport::~Transport() { stop(0); }
void Transport::stop(double grace) { impl_->stop(grace); }
int Transport::connections() const {
  std::lock_guard lock(impl_->mutex_);
  return static_cast<int>(impl_->open_.size());
}

}  // namespace sluice
