// SPDX-License-Identifier: Apache-2.0
#include "cluster/port.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>

#include "base/error.h"
#include "base/file.h"

namespace sluice {
namespace {

constexpr int kSpan = 10000;
constexpr int kStride = 7919;  // prime and not a factor of 10000: the walk visits every port once and leaves the
                               // neighbours' first choices alone

// base + start, then the walk; only safe ports. Where the ephemeral range covers all of them, the 1000 ports below it.
std::vector<uint16_t> walk(int base, int start, const PortLimits& limits) {
  std::vector<uint16_t> ports;
  for (int k = 0; k < kSpan; ++k) {
    const int port = base + static_cast<int>((start + static_cast<int64_t>(k) * kStride) % kSpan);
    if (limits.safe(port)) ports.push_back(static_cast<uint16_t>(port));
  }
  if (!ports.empty()) return ports;
  const int first = std::max(1024, limits.ephemeral_first - 1000);
  const int count = limits.ephemeral_first - first;
  for (int k = 0; k < count; ++k) ports.push_back(static_cast<uint16_t>(first + (start + k) % count));
  if (ports.empty()) {
    throw Error(
        fmt::format("no port is outside this machine's range for outgoing connections ({}-{}); choose one with --port",
                    limits.ephemeral_first, limits.ephemeral_last));
  }
  return ports;
}

std::vector<int> numbers_of(std::string_view text, std::string_view what) {
  std::vector<int> numbers;
  size_t at = 0;
  while (at < text.size()) {
    if (std::string_view(" \t\n,-").find(text[at]) != std::string_view::npos) {
      ++at;
      continue;
    }
    int value = 0;
    const auto [rest, error] = std::from_chars(text.data() + at, text.data() + text.size(), value);
    if (error != std::errc() || value < 0 || value > 65535)
      throw Error(fmt::format("{}: expected port numbers, found '{}'", what, text));
    numbers.push_back(value);
    at = static_cast<size_t>(rest - text.data());
  }
  return numbers;
}

}  // namespace

bool PortLimits::safe(int port) const {
  if (port < ephemeral_first || port > ephemeral_last) return true;
  return std::any_of(reserved.begin(), reserved.end(),
                     [&](const auto& range) { return port >= range.first && port <= range.second; });
}

PortLimits parse_port_limits(std::string_view range, std::string_view reserved) {
  PortLimits limits;
  const std::vector<int> ends = numbers_of(range, "ip_local_port_range");
  if (ends.size() != 2 || ends[0] > ends[1])
    throw Error(fmt::format("ip_local_port_range: expected two ports, found '{}'", range));
  limits.ephemeral_first = ends[0];
  limits.ephemeral_last = ends[1];
  size_t at = 0;
  while (at < reserved.size()) {
    const size_t stop = std::min(reserved.find(',', at), reserved.size());
    const std::vector<int> pair = numbers_of(reserved.substr(at, stop - at), "ip_local_reserved_ports");
    if (pair.size() > 2)
      throw Error(fmt::format("ip_local_reserved_ports: expected ports and ranges, found '{}'", reserved));
    if (!pair.empty()) limits.reserved.emplace_back(pair.front(), pair.back());
    at = stop + 1;
  }
  return limits;
}

PortLimits read_port_limits() {
  try {
    return parse_port_limits(read_file("/proc/sys/net/ipv4/ip_local_port_range"),
                             read_file("/proc/sys/net/ipv4/ip_local_reserved_ports"));
  } catch (const Error&) {
    return {};
  }
}

std::vector<uint16_t> http_ports(std::optional<uint32_t> job_id, std::optional<uint16_t> fixed,
                                 const PortLimits& limits) {
  if (fixed) return {*fixed};
  if (job_id) return walk(10000, static_cast<int>(*job_id % kSpan), limits);
  std::vector<uint16_t> ports;
  for (uint16_t port = 3000; port < 3100; ++port) ports.push_back(port);
  return ports;
}

std::vector<uint16_t> rendezvous_ports(std::optional<uint32_t> job_id, std::string_view run_id,
                                       const PortLimits& limits) {
  if (job_id) return walk(20000, static_cast<int>(*job_id % kSpan), limits);
  uint32_t hash = 2166136261u;  // FNV-1a: the same on every rank, whatever its standard library
  for (const char c : run_id) hash = (hash ^ static_cast<unsigned char>(c)) * 16777619u;
  return walk(20000, static_cast<int>(hash % kSpan), limits);
}

Listener listen_first(const std::string& address, const std::vector<uint16_t>& ports, int backlog,
                      std::string_view origin) {
  check(!ports.empty(), "listening needs a port to try");
  sockaddr_in v4{};
  sockaddr_in6 v6{};
  const bool is_v6 = ::inet_pton(AF_INET6, address.c_str(), &v6.sin6_addr) == 1;
  if (!is_v6 && ::inet_pton(AF_INET, address.c_str(), &v4.sin_addr) != 1) {
    throw Error(fmt::format("cannot listen on '{}': expected an address such as 0.0.0.0, 127.0.0.1 or ::", address));
  }
  v4.sin_family = AF_INET;
  v6.sin6_family = AF_INET6;
  int reason = 0;
  for (const uint16_t port : ports) {
    const int fd = ::socket(is_v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) throw Error(fmt::format("cannot open a socket: {}", std::strerror(errno)));
    const int on = 1;
    ::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    v4.sin_port = v6.sin6_port = htons(port);
    const sockaddr* to = is_v6 ? reinterpret_cast<const sockaddr*>(&v6) : reinterpret_cast<const sockaddr*>(&v4);
    if (::bind(fd, to, is_v6 ? sizeof v6 : sizeof v4) == 0 && ::listen(fd, backlog) == 0) {
      socklen_t length = is_v6 ? sizeof v6 : sizeof v4;  // port 0 asks the kernel to choose
      ::getsockname(fd, is_v6 ? reinterpret_cast<sockaddr*>(&v6) : reinterpret_cast<sockaddr*>(&v4), &length);
      return {fd, ntohs(is_v6 ? v6.sin6_port : v4.sin_port)};
    }
    reason = errno;
    ::close(fd);
    if (reason != EADDRINUSE && reason != EACCES) break;  // the address itself is at fault: another port would not help
  }
  if (ports.size() == 1) {
    throw Error(fmt::format(
        "cannot listen on {}:{} ({}): {}; choose another port, or leave it unset to take the first free one", address,
        ports[0], origin, std::strerror(reason)));
  }
  throw Error(fmt::format("cannot listen on {}, ports {} and the {} after it in the walk: {}; choose one with --port",
                          address, ports[0], ports.size() - 1, std::strerror(reason)));
}

}  // namespace sluice
