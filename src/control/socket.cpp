// SPDX-License-Identifier: Apache-2.0
#include "control/socket.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>

#include "base/clock.h"

namespace sluice {
namespace {

std::string name_of(const sockaddr* address, socklen_t length, bool with_port) {
  char host[NI_MAXHOST] = {}, port[NI_MAXSERV] = {};
  if (::getnameinfo(address, length, host, sizeof host, port, sizeof port, NI_NUMERICHOST | NI_NUMERICSERV) != 0)
    return "unknown address";
  if (!with_port) return host;
  return address->sa_family == AF_INET6 ? "[" + std::string(host) + "]:" + port : std::string(host) + ":" + port;
}

// Waits until the descriptor is ready or the deadline has passed.
bool wait_for(int fd, short events, double deadline) {
  for (;;) {
    const double left = deadline - monotonic_seconds();
    pollfd entry{fd, events, 0};
    const int n = ::poll(&entry, 1, left <= 0 ? 0 : static_cast<int>(std::min(left * 1000 + 1, 1e6)));
    if (n > 0) return true;
    if (n == 0 && left <= 0) return false;
    if (n < 0 && errno != EINTR) return false;
  }
}

}  // namespace

void Socket::close() {
  if (fd_ >= 0) ::close(std::exchange(fd_, -1));
}

std::vector<Address> resolve(const std::string& host, uint16_t port) {
  addrinfo hints{}, *found = nullptr;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV;
  std::vector<Address> out;
  if (::getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found) != 0) return out;
  for (const addrinfo* a = found; a != nullptr; a = a->ai_next) {
    Address address;
    std::memcpy(&address.storage, a->ai_addr, a->ai_addrlen);
    address.length = a->ai_addrlen;
    address.text = name_of(a->ai_addr, a->ai_addrlen, true);
    out.push_back(address);
  }
  ::freeaddrinfo(found);
  return out;
}

std::optional<std::pair<std::string, uint16_t>> parse_host_port(std::string_view text) {
  const size_t colon = text.rfind(':');
  if (colon == std::string_view::npos || colon == 0) return std::nullopt;
  std::string_view host = text.substr(0, colon), digits = text.substr(colon + 1);
  if (host.front() == '[' && host.back() == ']')
    host = host.substr(1, host.size() - 2);
  else if (host.find(':') != std::string_view::npos)
    return std::nullopt;
  uint16_t port = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), port);
  if (error != std::errc{} || end != digits.data() + digits.size() || port == 0 || host.empty()) return std::nullopt;
  return std::pair{std::string(host), port};
}

std::vector<std::string> own_addresses() {
  std::vector<std::string> v4, v6;
  ifaddrs* list = nullptr;
  if (::getifaddrs(&list) != 0) return v4;
  for (const ifaddrs* i = list; i != nullptr; i = i->ifa_next) {
    if (i->ifa_addr == nullptr || !(i->ifa_flags & IFF_UP) || (i->ifa_flags & IFF_LOOPBACK)) continue;
    if (i->ifa_addr->sa_family == AF_INET) {
      v4.push_back(name_of(i->ifa_addr, sizeof(sockaddr_in), false));
    } else if (i->ifa_addr->sa_family == AF_INET6) {
      const auto* six = reinterpret_cast<const sockaddr_in6*>(i->ifa_addr);
      if (!IN6_IS_ADDR_LINKLOCAL(&six->sin6_addr)) v6.push_back(name_of(i->ifa_addr, sizeof(sockaddr_in6), false));
    }
  }
  ::freeifaddrs(list);
  v4.insert(v4.end(), v6.begin(), v6.end());
  return v4;
}

std::string peer_name(int fd) {
  sockaddr_storage address{};
  socklen_t length = sizeof address;
  if (::getpeername(fd, reinterpret_cast<sockaddr*>(&address), &length) != 0) return "unknown address";
  return name_of(reinterpret_cast<sockaddr*>(&address), length, true);
}

std::string own_name(int fd) {
  sockaddr_storage address{};
  socklen_t length = sizeof address;
  if (::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length) != 0) return "unknown address";
  return name_of(reinterpret_cast<sockaddr*>(&address), length, true);
}

void prepare_stream(int fd) {
  ::fcntl(fd, F_SETFL, ::fcntl(fd, F_GETFL) | O_NONBLOCK);
  const int on = 1;
  ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

Socket connect_to(const Address& address, double deadline, int& error) {
  Socket socket(::socket(address.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  error = errno;
  if (!socket) return socket;
  prepare_stream(socket.fd());
  if (::connect(socket.fd(), reinterpret_cast<const sockaddr*>(&address.storage), address.length) == 0) return socket;
  error = errno;
  if (error != EINPROGRESS) return Socket();
  error = ETIMEDOUT;
  if (!wait_for(socket.fd(), POLLOUT, deadline)) return Socket();
  socklen_t length = sizeof error;
  ::getsockopt(socket.fd(), SOL_SOCKET, SO_ERROR, &error, &length);
  return error == 0 ? std::move(socket) : Socket();
}

bool read_exactly(int fd, char* to, size_t bytes, double deadline) {
  while (bytes > 0) {
    const ssize_t n = ::recv(fd, to, bytes, MSG_DONTWAIT);
    if (n > 0) {
      to += n;
      bytes -= static_cast<size_t>(n);
    } else if (n == 0) {
      errno = ECONNRESET;
      return false;
    } else if (errno != EAGAIN && errno != EINTR) {
      return false;
    } else if (!wait_for(fd, POLLIN, deadline)) {
      errno = ETIMEDOUT;
      return false;
    }
  }
  return true;
}

bool write_all(int fd, std::string_view bytes, double deadline) {
  while (!bytes.empty()) {
    const ssize_t n = ::send(fd, bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n > 0)
      bytes.remove_prefix(static_cast<size_t>(n));
    else if ((errno != EAGAIN && errno != EINTR) || !wait_for(fd, POLLOUT, deadline))
      return false;
  }
  return true;
}

}  // namespace sluice
