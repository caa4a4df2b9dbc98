// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>

#include "api/transport.h"
#include "base/error.h"

namespace sluice {

int listen_on(const std::string& host, const std::vector<int>& ports, int& port) {
  addrinfo hints{}, *list = nullptr;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  int failed = getaddrinfo(host.c_str(), nullptr, &hints, &list);
  if (failed != 0)
    throw Error(fmt::format("cannot listen on host \"{}\": {}; give an address of this machine, or 0.0.0.0 for all",
                            host, gai_strerror(failed)));
  std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owner(list, freeaddrinfo);
  std::string last = "no port was offered";
  for (int candidate : ports) {
    int fd = ::socket(list->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) throw Error(fmt::format("cannot open a socket: {}", std::strerror(errno)));
    int on = 1, off = 0;
    // Never SO_REUSEPORT: two servers of one user would share the port unseen.
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);  // accepted sockets inherit it
    if (list->ai_family == AF_INET6) setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    sockaddr_storage address{};
    std::memcpy(&address, list->ai_addr, list->ai_addrlen);
    auto in_order = htons(static_cast<uint16_t>(candidate));
    if (list->ai_family == AF_INET6)
      reinterpret_cast<sockaddr_in6*>(&address)->sin6_port = in_order;
    else
      reinterpret_cast<sockaddr_in*>(&address)->sin_port = in_order;
    if (bind(fd, reinterpret_cast<sockaddr*>(&address), list->ai_addrlen) == 0 && ::listen(fd, 4096) == 0) {
      socklen_t length = sizeof address;
      getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length);
      port = ntohs(list->ai_family == AF_INET6 ? reinterpret_cast<sockaddr_in6*>(&address)->sin6_port
                                               : reinterpret_cast<sockaddr_in*>(&address)->sin_port);
      return fd;
    }
    int reason = errno;
    close(fd);
    last = fmt::format("port {}: {}", candidate, std::strerror(reason));
    if (reason != EADDRINUSE && reason != EACCES) break;
  }
  throw Error(
      fmt::format("cannot listen on {} at any of {} ports ({}); free one or set --port", host, ports.size(), last));
}

}  // namespace sluice
