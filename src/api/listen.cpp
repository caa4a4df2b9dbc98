// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>

#include "api/transport.h"
#include "base/error.h"

namespace sluice {

namespace {

// Mode 0600. What a dead server left there is replaced; a living one, another user's file and a folder that others can
// write to are refused.
int listen_on_socket(const std::string& path) {
  const auto refuse = [&](std::string_view why) {
    return Error(fmt::format("cannot listen on unix:{}: {}", path, why));
  };
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (!path.starts_with('/')) throw refuse("name the socket by its whole path");
  if (path.size() >= sizeof address.sun_path)
    throw refuse(fmt::format("the path has {} bytes and a socket's may have {}; choose a shorter one", path.size(),
                             sizeof address.sun_path - 1));
  std::memcpy(address.sun_path, path.data(), path.size());
  struct stat folder {
  }, old{};
  const std::string parent = path.substr(0, std::max<size_t>(path.rfind('/'), 1));
  if (::stat(parent.c_str(), &folder) != 0)
    throw refuse(fmt::format("the folder {}: {}", parent, std::strerror(errno)));
  if ((folder.st_mode & 0022) != 0 && (folder.st_mode & S_ISVTX) == 0)
    throw refuse(fmt::format("others can put a socket of theirs into the folder {}; chmod 700 {}", parent, parent));
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) throw refuse(std::strerror(errno));
  const auto* where = reinterpret_cast<const sockaddr*>(&address);
  if (::lstat(path.c_str(), &old) == 0) {
    std::string why;
    if (!S_ISSOCK(old.st_mode) || old.st_uid != ::geteuid())
      why = "something that is no socket of yours is there";
    else if (::connect(fd, where, sizeof address) == 0)
      why = "a server listens there already";
    if (!why.empty()) {
      ::close(fd);
      throw refuse(why);
    }
    ::unlink(path.c_str());
  }
  const mode_t mask = ::umask(0177);  // private from its first moment
  const bool bound = ::bind(fd, where, sizeof address) == 0;
  int reason = errno;
  ::umask(mask);
  if (bound && ::listen(fd, 4096) == 0) return fd;
  if (bound) reason = errno;
  ::close(fd);
  throw refuse(std::strerror(reason));
}

}  // namespace

int listen_on(const std::string& host, const std::vector<int>& ports, int& port) {
  port = 0;
  if (host.starts_with("unix:")) return listen_on_socket(host.substr(5));
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
    if (reason == EADDRNOTAVAIL)
      throw Error(
          fmt::format("cannot listen on {}: this machine has no such address; give one of its own, or 0.0.0.0 "
                      "for all",
                      host));
    last = fmt::format("port {}: {}", candidate, std::strerror(reason));
    if (reason != EADDRINUSE && reason != EACCES) break;
  }
  throw Error(ports.size() == 1 ? fmt::format("cannot listen on {}: {}; free it, or choose another --port", host, last)
                                : fmt::format("cannot listen on {} at any of {} ports ({}); free one or set --port",
                                              host, ports.size(), last));
}

}  // namespace sluice
