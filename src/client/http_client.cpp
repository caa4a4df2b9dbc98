// SPDX-License-Identifier: Apache-2.0
#include "client/http_client.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <memory>

#include "base/error.h"

namespace sluice {
namespace {

bool wait_for(int fd, short events, double seconds) {
  pollfd p{fd, events, 0};
  int n;
  do n = ::poll(&p, 1, static_cast<int>(std::min(seconds, 2e6) * 1000) + 1);
  while (n < 0 && errno == EINTR);
  return n > 0;
}

}  // namespace

namespace {
constexpr std::string_view kUnix = "unix:";

// A socket must be this user's own: another user who made one of that name would be told the key.
int connect_to_socket(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path)
    throw Error(fmt::format("the socket's path {} is longer than {} bytes", path, sizeof address.sun_path - 1));
  std::memcpy(address.sun_path, path.data(), path.size());
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) throw Error(fmt::format("cannot open a socket: {}", std::strerror(errno)));
  ucred peer{};
  socklen_t length = sizeof peer;
  std::string why;
  if (::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0)
    why = std::string(std::strerror(errno)) + "; a socket is of use on the server's own node alone";
  else if (::getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0 || peer.uid != ::geteuid())
    why = "another user listens there";
  if (why.empty()) {
    ::fcntl(fd, F_SETFL, ::fcntl(fd, F_GETFL) | O_NONBLOCK);
    return fd;
  }
  ::close(fd);
  throw Error(fmt::format("cannot reach unix:{}: {}", path, why));
}
}  // namespace

Url Url::parse(std::string_view text) {
  const std::string whole(text);
  auto fail = [&](std::string_view why) {
    return Error(fmt::format("\"{}\" is no URL of a server ({}); expected http://HOST:PORT", whole, why));
  };
  if (text.starts_with(kUnix)) {
    if (!text.substr(kUnix.size()).starts_with('/')) throw fail("a Unix socket is named by its whole path");
    Url url;
    url.host = whole;
    return url;
  }
  if (text.starts_with("https://")) throw fail("https is not supported; use the plain port, through ssh -L if needed");
  if (text.starts_with("http://")) text.remove_prefix(7);
  if (text.find("://") != std::string_view::npos) throw fail("unknown scheme");
  Url url;
  const size_t slash = std::min(text.find('/'), text.size());
  url.path = text.substr(slash);
  while (!url.path.empty() && url.path.back() == '/') url.path.pop_back();
  std::string_view authority = text.substr(0, slash);
  size_t end = authority.find(':');
  if (authority.starts_with('[')) {
    end = authority.find(']');
    if (end == std::string_view::npos) throw fail("no ] after the address");
    url.host = authority.substr(1, end - 1);
    authority.remove_prefix(end + 1);
  } else {
    end = std::min(end, authority.size());
    url.host = authority.substr(0, end);
    authority.remove_prefix(end);
  }
  if (url.host.empty()) throw fail("no host");
  if (!authority.empty()) {
    const char* last = authority.data() + authority.size();
    auto result = std::from_chars(authority.data() + 1, last, url.port);
    if (authority[0] != ':' || result.ec != std::errc() || result.ptr != last || url.port < 1 || url.port > 65535)
      throw fail("bad port");
  }
  return url;
}

std::string Url::text() const {
  if (host.starts_with(kUnix)) return host;
  const bool v6 = host.find(':') != std::string::npos;
  return fmt::format("http://{}{}{}:{}{}", v6 ? "[" : "", host, v6 ? "]" : "", port, path);
}

int connect_to(const Url& url, double seconds) {
  if (url.host.starts_with(kUnix)) return connect_to_socket(url.host.substr(kUnix.size()));
  addrinfo hints{}, *list = nullptr;
  hints.ai_socktype = SOCK_STREAM;
  int failed = getaddrinfo(url.host.c_str(), std::to_string(url.port).c_str(), &hints, &list);
  if (failed != 0) throw Error(fmt::format("cannot find host {}: {}", url.host, gai_strerror(failed)));
  std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owner(list, freeaddrinfo);
  int reason = 0;
  for (addrinfo* a = list; a != nullptr; a = a->ai_next) {
    int fd = ::socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
      reason = errno;
      continue;
    }
    reason = ::connect(fd, a->ai_addr, a->ai_addrlen) == 0 ? 0 : errno;
    if (reason == EINPROGRESS) {
      reason = ETIMEDOUT;
      socklen_t length = sizeof reason;
      if (wait_for(fd, POLLOUT, seconds)) getsockopt(fd, SOL_SOCKET, SO_ERROR, &reason, &length);
    }
    if (reason == 0) {
      int on = 1;
      setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
      return fd;
    }
    ::close(fd);
  }
  throw Error(fmt::format("cannot reach {}: {}; is the server up, and is this the right host and port?", url.text(),
                          std::strerror(reason)));
}

std::string request_text(const Url& url, std::string_view method, std::string_view path,
                         const std::vector<std::pair<std::string, std::string>>& headers, std::string_view body) {
  const std::string host = url.host.starts_with(kUnix) ? "localhost" : fmt::format("{}:{}", url.host, url.port);
  std::string out = fmt::format("{} {}{} HTTP/1.1\r\nHost: {}\r\n", method, url.path, path, host);
  for (const auto& [name, value] : headers) out += fmt::format("{}: {}\r\n", name, value);
  if (!body.empty() || method == "POST") out += fmt::format("Content-Length: {}\r\n", body.size());
  out += "\r\n";
  out += body;
  return out;
}

HttpClient::HttpClient(Url url, std::string key) : url_(std::move(url)), key_(std::move(key)) {}
HttpClient::~HttpClient() { close(); }

void HttpClient::close() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
}

// False when nothing came within the silence allowed.
bool HttpClient::wait_reply() const {
  constexpr double kLook = 0.05;
  if (stop == nullptr) return wait_for(fd_, POLLIN, silence_seconds);
  for (double left = silence_seconds; left > 0 && !stopped(); left -= kLook)
    if (wait_for(fd_, POLLIN, kLook)) return true;
  return stopped();
}

// False when the connection closed before the reply began; on a kept one that is worth another try.
bool HttpClient::try_send(std::string_view text, bool head, const HttpReader::OnBody& on_body, ClientReply& reply) {
  while (!text.empty()) {
    ssize_t n = ::send(fd_, text.data(), text.size(), MSG_NOSIGNAL);
    if (n > 0) {
      text.remove_prefix(static_cast<size_t>(n));
    } else if (errno == EAGAIN) {
      if (!wait_for(fd_, POLLOUT, silence_seconds)) throw Error(fmt::format("{} takes no request", url_.text()));
    } else if (errno != EINTR) {
      break;  // closed while sending: a reply may still be there
    }
  }
  HttpReader reader;
  reader.reset(head);
  bool any = false;
  char buffer[65536];
  auto body = [&](std::string_view piece) {
    if (on_body && reader.head().status / 100 == 2) return on_body(piece);
    reply.body.append(piece);
    return true;
  };
  while (!reader.done() && !reader.stopped()) {
    if (!wait_reply()) throw Error(fmt::format("{} sent nothing for {:.0f} s", url_.text(), silence_seconds));
    if (stopped()) {
      if (reader.has_head()) reply.head = reader.head();
      close();
      return true;
    }
    ssize_t n = ::recv(fd_, buffer, sizeof buffer, 0);
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (n <= 0) {
      if (!any) return false;
      if (!reader.finish()) throw Error(fmt::format("{} broke off in the middle of its reply", url_.text()));
      break;
    }
    any = true;
    reader.feed({buffer, static_cast<size_t>(n)}, body);
  }
  reply.head = reader.head();
  if (!reader.keep_alive() || reader.stopped()) close();
  return true;
}

ClientReply HttpClient::send(std::string_view method, std::string_view path, const Headers& headers,
                             std::string_view body, const HttpReader::OnBody& on_body) {
  Headers all = headers;
  if (!key_.empty()) all.emplace_back("Authorization", "Bearer " + key_);
  const std::string text = request_text(url_, method, path, all, body);
  ClientReply reply;
  try {
    for (bool kept = fd_ >= 0;; kept = false) {
      if (!kept) fd_ = connect_to(url_, connect_seconds);
      if (try_send(text, method == "HEAD", on_body, reply)) return reply;
      close();
      if (!kept) throw Error(fmt::format("{} closed the connection without a reply", url_.text()));
    }
  } catch (...) {
    close();
    throw;
  }
}

ClientReply HttpClient::post_json(std::string_view path, std::string_view body, const HttpReader::OnBody& on_body) {
  return send("POST", path, {{"Content-Type", "application/json"}}, body, on_body);
}

}  // namespace sluice
