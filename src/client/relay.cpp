// SPDX-License-Identifier: Apache-2.0
#include "client/relay.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <fstream>
#include <mutex>
#include <set>
#include <sstream>
#include <system_error>
#include <thread>

#include "base/clock.h"
#include "base/error.h"

namespace sluice {
namespace {
constexpr size_t kHeadLimit = 64 << 10, kPiece = 64 << 10;
constexpr size_t kLingerBytes = 1 << 20;
constexpr double kHeadSeconds = 30, kLingerSeconds = 1;

// False at the end of the stream, on an error and after `seconds` of silence.
bool receive(int fd, std::string& into, double seconds, bool* ended = nullptr) {
  pollfd waiting{fd, POLLIN, 0};
  int ready;
  do ready = ::poll(&waiting, 1, static_cast<int>(std::min(seconds, 2e6) * 1000));
  while (ready < 0 && errno == EINTR);
  if (ready <= 0) return false;
  const size_t before = into.size();
  into.resize(before + kPiece);
  const ssize_t n = ::recv(fd, into.data() + before, kPiece, 0);
  into.resize(before + static_cast<size_t>(std::max<ssize_t>(n, 0)));
  if (n == 0 && ended != nullptr) *ended = true;
  return n > 0;
}

bool send_all(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    bytes.remove_prefix(static_cast<size_t>(n));
  }
  return true;
}

bool same_name(std::string_view a, std::string_view lower) {
  return a.size() == lower.size() && std::equal(a.begin(), a.end(), lower.begin(), [](char x, char y) {
           return std::tolower(static_cast<unsigned char>(x)) == y;
         });
}

struct Incoming {
  RelayRequest request;
  std::string version;
  std::vector<std::pair<std::string, std::string>> headers;
  std::string_view get(std::string_view lower) const {
    for (const auto& [name, value] : headers)
      if (same_name(name, lower)) return value;
    return {};
  }
};

bool parse_head(std::string_view head, Incoming& in) {
  size_t end = head.find("\r\n");
  const std::string_view line = head.substr(0, end);
  const size_t one = line.find(' '), two = line.rfind(' ');
  if (one == line.npos || two <= one || !line.substr(two + 1).starts_with("HTTP/1.")) return false;
  in.request.method = line.substr(0, one);
  in.request.path = line.substr(one + 1, two - one - 1);
  in.version = line.substr(two + 1);
  if (!in.request.path.starts_with('/')) return false;
  while (end != head.npos && end + 2 < head.size()) {
    const size_t begin = end + 2;
    end = head.find("\r\n", begin);
    const std::string_view field = head.substr(begin, end == head.npos ? head.npos : end - begin);
    if (field.empty()) break;
    const size_t colon = field.find(':');
    if (colon == field.npos || colon == 0) return false;
    std::string_view value = field.substr(colon + 1);
    while (!value.empty() && (value.front() == ' ' || value.front() == '\t')) value.remove_prefix(1);
    while (!value.empty() && (value.back() == ' ' || value.back() == '\t')) value.remove_suffix(1);
    in.headers.emplace_back(field.substr(0, colon), value);
  }
  return true;
}

std::string own_answer(int status, const char* reason, std::string_view json, const char* more = "") {
  return fmt::format(
      "HTTP/1.1 {} {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n{}\r\n{}", status,
      reason, json.size(), more, json);
}
std::string error_json(std::string_view message) {
  std::string text;
  for (const char c : message) {
    if (c == '"' || c == '\\') text += '\\';
    text += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
  }
  return fmt::format("{{\"error\":{{\"message\":\"{}\",\"type\":\"relay_error\"}}}}", text);
}

// An address as /proc/net/tcp writes it: words of four bytes, low byte first, and the port.
std::string table_name(const sockaddr_storage& address) {
  if (address.ss_family == AF_INET) {
    const auto& in = reinterpret_cast<const sockaddr_in&>(address);
    return fmt::format("{:08X}:{:04X}", in.sin_addr.s_addr, ntohs(in.sin_port));
  }
  const auto& in = reinterpret_cast<const sockaddr_in6&>(address);
  std::string out;
  for (int i = 0; i < 4; ++i) out += fmt::format("{:08X}", in.sin6_addr.s6_addr32[i]);
  return out + fmt::format(":{:04X}", ntohs(in.sin6_port));
}

// Whether the other end of this loopback connection is a socket of the calling user.
bool peer_is_own(int fd) {
  sockaddr_storage peer{}, self{};
  socklen_t length = sizeof peer;
  if (::getpeername(fd, reinterpret_cast<sockaddr*>(&peer), &length) != 0) return false;
  if (peer.ss_family == AF_UNIX) return true;  // the socket's mode says who
  length = sizeof self;
  if (::getsockname(fd, reinterpret_cast<sockaddr*>(&self), &length) != 0) return false;
  // Both ends: another connection may have, or have had, the same port.
  const std::string local = table_name(peer), remote = table_name(self);
  for (const char* table : {"/proc/net/tcp", "/proc/net/tcp6"}) {
    std::ifstream lines(table);
    for (std::string line; std::getline(lines, line);) {
      // "sl local_address rem_address st tx:rx tr:tm retrnsmt uid ..."; an IPv4 socket may stand in tcp6, mapped.
      std::istringstream words(line);
      std::string sl, from, to, state, queues, timer, retransmits;
      long uid = -1;
      words >> sl >> from >> to >> state >> queues >> timer >> retransmits >> uid;
      constexpr const char* kTimeWait = "06";  // has no owner any more
      if (from.ends_with(local) && to.ends_with(remote) && state != kTimeWait)
        return uid == static_cast<long>(::geteuid());
    }
  }
  return false;
}

bool same_key(std::string_view given, std::string_view key) {
  unsigned char difference = given.size() == key.size() ? 0 : 1;
  for (size_t i = 0; i < given.size(); ++i) difference |= static_cast<unsigned char>(given[i] ^ key[i % key.size()]);
  return difference == 0;
}

// The request as the backend gets it: its own Host, one request per connection, the key where the client sent none.
std::string outgoing(const Incoming& in, const RelayTarget& target) {
  const std::string host =
      target.url.host.starts_with("unix:") ? "localhost" : fmt::format("{}:{}", target.url.host, target.url.port);
  std::string out = fmt::format("{} {}{} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", in.request.method,
                                target.url.path, in.request.path, host);
  for (const auto& [name, value] : in.headers) {
    if (same_name(name, "host") || same_name(name, "connection") || same_name(name, "keep-alive") ||
        same_name(name, "transfer-encoding") || same_name(name, "content-length") || same_name(name, "expect") ||
        same_name(name, "proxy-connection"))
      continue;
    // Clients that insist on sending some key send a made-up one: the backend's own takes its place.
    if (same_name(name, "authorization") && !target.key.empty()) continue;
    out += fmt::format("{}: {}\r\n", name, value);
  }
  if (!target.key.empty()) out += fmt::format("Authorization: Bearer {}\r\n", target.key);
  if (!in.request.body.empty() || in.request.method == "POST" || in.request.method == "PUT")
    out += fmt::format("Content-Length: {}\r\n", in.request.body.size());
  out += "\r\n";
  out += in.request.body;
  return out;
}
}  // namespace

struct Relay::Impl {
  RelayOptions options;
  Choose choose;
  Ended ended;
  Own own;
  int listening = -1;
  std::thread acceptor;
  std::mutex mutex;
  std::condition_variable changed;
  std::set<int> open;  // client sockets
  std::atomic<bool> stopping{false};

  void accept_loop() {
    while (!stopping) {
      pollfd waiting{listening, POLLIN, 0};
      if (::poll(&waiting, 1, 200) <= 0) continue;
      const int fd = ::accept4(listening, nullptr, nullptr, SOCK_CLOEXEC);
      if (fd < 0) {
        // Descriptors or memory run short: poll() says at once that the connection still waits.
        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
          std::this_thread::sleep_for(std::chrono::milliseconds(5));
        continue;
      }
      const int on = 1;
      ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
      {
        const std::lock_guard lock(mutex);
        open.insert(fd);
      }
      if (connections() > options.max_connections) {
        turn_away(fd, "too many connections");
        continue;
      }
      try {
        std::thread([this, fd] {
          if (!serve(fd)) linger(fd);
          forget(fd);
        }).detach();
      } catch (const std::system_error&) {  // the limit of processes, which threads count towards
        turn_away(fd, "no thread is to be had for this connection");
      }
    }
  }

  int connections() {
    const std::lock_guard lock(mutex);
    return static_cast<int>(open.size());
  }

  void turn_away(int fd, const char* why) {
    send_all(fd, own_answer(503, "Service Unavailable", error_json(why), "Retry-After: 1\r\n"));
    forget(fd);
  }

  void forget(int fd) {
    const std::lock_guard lock(mutex);
    ::close(fd);
    open.erase(fd);
    changed.notify_all();
  }

  // What the client still sends is read away for a moment, so that closing does not cut off the answer.
  static void linger(int fd) {
    ::shutdown(fd, SHUT_WR);
    std::string rest;
    size_t left = kLingerBytes;
    for (const double end = monotonic_seconds() + kLingerSeconds; left > 0; rest.clear()) {
      const double now = monotonic_seconds();
      if (now >= end || !receive(fd, rest, end - now)) return;
      left -= std::min(left, rest.size());
    }
  }

  // Where to now; nullopt with `why` where that fails too: this thread has nobody who would catch it.
  std::optional<RelayTarget> choose_target(const RelayRequest& request, std::string& why) const {
    try {
      return choose(request, why);
    } catch (const Error& error) {
      why = error.what();
      return std::nullopt;
    }
  }

  bool read_request(int fd, Incoming& in) {
    std::string bytes;
    size_t end;
    while ((end = bytes.find("\r\n\r\n")) == std::string::npos) {
      if (bytes.size() > kHeadLimit) {
        send_all(fd,
                 own_answer(431, "Request Header Fields Too Large", error_json("the request's headers are too long")));
        return false;
      }
      if (!receive(fd, bytes, kHeadSeconds)) return false;
    }
    if (!parse_head(std::string_view(bytes).substr(0, end + 2), in)) {
      send_all(fd, own_answer(400, "Bad Request", error_json("not a well-formed HTTP/1.1 request")));
      return false;
    }
    bytes.erase(0, end + 4);
    if (same_name(in.get("expect"), "100-continue")) send_all(fd, "HTTP/1.1 100 Continue\r\n\r\n");
    return same_name(in.get("transfer-encoding"), "chunked") ? read_chunks(fd, bytes, in) : read_length(fd, bytes, in);
  }

  bool too_large(int fd) {
    send_all(fd, own_answer(413, "Payload Too Large", error_json("the body is too large for this relay")));
    return false;
  }

  bool read_length(int fd, std::string& bytes, Incoming& in) {
    const std::string text(in.get("content-length"));
    if (text.empty()) return true;
    if (text.size() > 18 || text.find_first_not_of("0123456789") != text.npos) {
      send_all(fd, own_answer(400, "Bad Request", error_json("Content-Length is no number")));
      return false;
    }
    const size_t length = std::stoull(text);
    if (length > options.max_body) return too_large(fd);
    while (bytes.size() < length) {
      if (!receive(fd, bytes, kHeadSeconds)) return false;
    }
    in.request.body = bytes.substr(0, length);
    return true;
  }

  bool read_chunks(int fd, std::string& bytes, Incoming& in) {
    // An answer's framing is a request's framing: the reader of answers takes it apart.
    HttpReader reader;
    reader.reset();
    const auto take = [&](std::string_view piece) {
      in.request.body.append(piece);
      return in.request.body.size() <= options.max_body;
    };
    try {
      reader.feed("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", take);
      while (true) {
        reader.feed(bytes, take);
        if (in.request.body.size() > options.max_body) return too_large(fd);
        if (reader.done()) return true;
        bytes.clear();
        if (!receive(fd, bytes, kHeadSeconds)) return false;
      }
    } catch (const Error&) {
      send_all(fd, own_answer(400, "Bad Request", error_json("the chunks of the body are malformed")));
      return false;
    }
  }

  // False: the request has not been read whole.
  bool serve(int fd) {
    if (options.own_user && !peer_is_own(fd)) {
      send_all(fd, own_answer(403, "Forbidden", error_json("this relay serves the user who started it")));
      return false;
    }
    Incoming in;
    if (!read_request(fd, in)) return false;
    answer(fd, in);
    return true;
  }

  void answer(int fd, Incoming& in) {
    const bool open = in.request.path == "/health" || (in.request.method == "HEAD" && in.request.path == "/");
    if (!options.key.empty() && !open) {
      const std::string_view given = in.get("authorization");
      const bool bearer = given.size() > 7 && same_name(given.substr(0, 7), "bearer ");
      if (!bearer || !same_key(given.substr(7), options.key)) {
        send_all(fd, own_answer(401, "Unauthorized", error_json("send the header Authorization: Bearer KEY"),
                                "WWW-Authenticate: Bearer\r\n"));
        return;
      }
    }
    if (own) {
      if (const auto answer = own(in.request.method, in.request.path)) {
        send_all(fd, own_answer(200, "OK", *answer));
        return;
      }
    }
    std::string why;
    while (!stopping) {
      const std::optional<RelayTarget> target = choose_target(in.request, why);
      if (!target) {
        if (why.empty()) why = "no backend is ready";
        send_all(fd, own_answer(503, "Service Unavailable", error_json(why), "Retry-After: 2\r\n"));
        return;
      }
      const RelayOutcome outcome = pass(fd, in, *target);
      ended(*target, outcome);
      if (outcome == RelayOutcome::kAnswered) return;
      ++in.request.attempt;
      in.request.failed.push_back(target->tag);
      why = outcome == RelayOutcome::kRefused ? "every backend is busy or draining" : "no backend answers";
    }
  }

  // Waits for bytes of the backend while watching for a client that leaves.
  enum class Wake { kBackend, kGone, kSilence };
  Wake wait_for(int fd, int back) const {
    pollfd both[2] = {{back, POLLIN, 0}, {fd, POLLIN | POLLRDHUP, 0}};
    while (true) {
      const int ready = ::poll(both, 2, static_cast<int>(std::min(options.silence_seconds, 2e6) * 1000));
      if (ready < 0 && errno == EINTR) continue;
      if (ready == 0 || stopping) return Wake::kSilence;
      if (both[0].revents != 0) return Wake::kBackend;
      if ((both[1].revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0) return Wake::kGone;
      char rest[1024];  // a client that pipelines: one request per connection is what it was told
      if (::recv(fd, rest, sizeof rest, 0) <= 0) return Wake::kGone;
    }
  }

  RelayOutcome pass(int fd, const Incoming& in, const RelayTarget& target) {
    int back = -1;
    try {
      back = connect_to(target.url, options.connect_seconds);
      ::fcntl(back, F_SETFL, ::fcntl(back, F_GETFL) & ~O_NONBLOCK);
    } catch (const Error&) {
      return RelayOutcome::kNoAnswer;
    }
    struct Closer {
      int fd;
      ~Closer() { ::close(fd); }
    } closer{back};
    if (!send_all(back, outgoing(in, target))) return RelayOutcome::kNoAnswer;
    std::string bytes;
    bool begun = false;
    while (true) {
      const Wake wake = wait_for(fd, back);
      if (wake == Wake::kGone) return RelayOutcome::kAnswered;  // closing tells the backend
      bool end = false;
      if (wake == Wake::kSilence || !receive(back, bytes, 1, &end))
        return begun ? RelayOutcome::kAnswered : RelayOutcome::kNoAnswer;
      if (!begun) {
        // Nothing has gone to the client while the status line is incomplete or says "elsewhere".
        const size_t line = bytes.find("\r\n");
        if (line == bytes.npos && bytes.size() < kHeadLimit) continue;
        const std::string_view status = std::string_view(bytes).substr(0, line);
        if (status.find(" 503") != status.npos || status.find(" 429") != status.npos) {
          if (in.request.path != "/health" && in.request.attempt < 8) return RelayOutcome::kRefused;
        }
        begun = true;
      }
      if (!send_all(fd, bytes)) return RelayOutcome::kAnswered;
      bytes.clear();
    }
  }
};

namespace {
int listen_at(const RelayOptions& options, int& port) {
  if (!options.unix_socket.empty()) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (options.unix_socket.size() >= sizeof address.sun_path)
      throw Error(fmt::format("the socket's path {} is longer than {} bytes", options.unix_socket,
                              sizeof address.sun_path - 1));
    std::memcpy(address.sun_path, options.unix_socket.data(), options.unix_socket.size());
    const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ::unlink(options.unix_socket.c_str());
    const mode_t before = ::umask(0177);
    const bool good = ::bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0 && ::listen(fd, 1024) == 0;
    ::umask(before);
    if (!good) throw Error(fmt::format("cannot listen on {}: {}", options.unix_socket, std::strerror(errno)));
    return fd;
  }
  addrinfo hints{}, *found = nullptr;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  if (::getaddrinfo(options.host.c_str(), std::to_string(options.port).c_str(), &hints, &found) != 0 ||
      found == nullptr)
    throw Error(fmt::format("cannot listen on {}: no such address", options.host));
  const int fd = ::socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int on = 1;
  ::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  const bool good = ::bind(fd, found->ai_addr, found->ai_addrlen) == 0 && ::listen(fd, 1024) == 0;
  const std::string reason = std::strerror(errno);
  ::freeaddrinfo(found);
  if (!good) {
    ::close(fd);
    throw Error(fmt::format("cannot listen on {}:{}: {}", options.host, options.port, reason));
  }
  sockaddr_storage bound{};
  socklen_t length = sizeof bound;
  ::getsockname(fd, reinterpret_cast<sockaddr*>(&bound), &length);
  port = ntohs(bound.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6&>(bound).sin6_port
                                           : reinterpret_cast<sockaddr_in&>(bound).sin_port);
  return fd;
}
}  // namespace

Relay::Relay(RelayOptions options, Choose choose, Ended ended, Own own) : impl_(std::make_unique<Impl>()) {
  impl_->options = std::move(options);
  impl_->choose = std::move(choose);
  impl_->ended = std::move(ended);
  impl_->own = std::move(own);
  impl_->listening = listen_at(impl_->options, port_);
  impl_->acceptor = std::thread([this] { impl_->accept_loop(); });
}

Relay::~Relay() {
  impl_->stopping = true;
  impl_->acceptor.join();
  ::close(impl_->listening);
  if (!impl_->options.unix_socket.empty()) ::unlink(impl_->options.unix_socket.c_str());
  std::unique_lock lock(impl_->mutex);
  for (const int fd : impl_->open) ::shutdown(fd, SHUT_RDWR);
  impl_->changed.wait(lock, [&] { return impl_->open.empty(); });
}

int Relay::connections() const { return impl_->connections(); }

}  // namespace sluice
