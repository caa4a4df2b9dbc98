// SPDX-License-Identifier: Apache-2.0
// Sockets as values: an owned descriptor, addresses of this host, and reads and writes with a deadline.
#pragma once

#include <sys/socket.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace sluice {

// Owns one descriptor.
class Socket {
 public:
  Socket() = default;
  explicit Socket(int fd) : fd_(fd) {}
  Socket(Socket&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Socket& operator=(Socket&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;
  ~Socket() { close(); }
  int fd() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  void close();
  int release() { return std::exchange(fd_, -1); }  // the caller's from now on

 private:
  int fd_ = -1;
};

// A resolved TCP address.
struct Address {
  sockaddr_storage storage{};
  socklen_t length = 0;
  std::string text;  // "10.77.0.1:20148"
};

// Host name or number to addresses; empty when the name does not resolve.
std::vector<Address> resolve(const std::string& host, uint16_t port);
// "HOST:PORT" or "[V6]:PORT"; nullopt when it is neither.
std::optional<std::pair<std::string, uint16_t>> parse_host_port(std::string_view text);
// Numeric addresses of this host's interfaces that are up; loopback and link-local ones are left out.
std::vector<std::string> own_addresses();
std::string peer_name(int fd);  // "10.77.0.2:41230"
std::string own_name(int fd);   // the address that the peer sees

// Deadlines are in monotonic_seconds(). The sockets stay non-blocking.
Socket connect_to(const Address& address, double deadline, int& error);  // empty socket and errno on failure
void prepare_stream(int fd);                                             // non-blocking, TCP_NODELAY
bool read_exactly(int fd, char* to, size_t bytes, double deadline);      // false: closed, failed or too late
bool write_all(int fd, std::string_view bytes, double deadline);

}  // namespace sluice
