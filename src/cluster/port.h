// SPDX-License-Identifier: Apache-2.0
// Which ports to try. A job id is a first preference, never a promise: bind in this order, publish the port actually
// bound.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace sluice {

// Ports that the kernel hands to outgoing connections and that a listener may therefore lose.
struct PortLimits {
  int ephemeral_first = 32768;
  int ephemeral_last = 60999;
  std::vector<std::pair<int, int>> reserved;  // inclusive ranges excepted from it
  bool safe(int port) const;                  // outside the ephemeral range, or reserved
};
// Contents of /proc/sys/net/ipv4/ip_local_port_range and ip_local_reserved_ports. Throws Error on anything else.
PortLimits parse_port_limits(std::string_view range, std::string_view reserved);
PortLimits read_port_limits();  // from /proc; the defaults where it cannot be read

// A fixed port alone. Else 10000 + last four decimal digits of the job id, then a deterministic walk of 10000-19999,
// safe ports only (below the ephemeral range where it covers all of these). Without a job id: 3000, 3001, ... 3099.
std::vector<uint16_t> http_ports(std::optional<uint32_t> job_id, std::optional<uint16_t> fixed,
                                 const PortLimits& limits);

// The same for the ranks' rendezvous in 20000-29999. Without a job id the run id (equal on all ranks) chooses the
// start.
std::vector<uint16_t> rendezvous_ports(std::optional<uint32_t> job_id, std::string_view run_id,
                                       const PortLimits& limits);

// A bound and listening IPv4 or IPv6 TCP socket. The descriptor belongs to the caller.
struct Listener {
  int fd = -1;
  uint16_t port = 0;
};
// Binds the first free port of the list on `address` ("0.0.0.0", "127.0.0.1", "::"). SO_REUSEADDR, never SO_REUSEPORT,
// which would let two servers of one user share a port in silence. Throws Error: one port in the list means it was
// fixed by `origin`.
Listener listen_first(const std::string& address, const std::vector<uint16_t>& ports, int backlog,
                      std::string_view origin);

}  // namespace sluice
