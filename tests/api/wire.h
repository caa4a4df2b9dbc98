// SPDX-License-Identifier: Apache-2.0
// A raw HTTP client for tests: what is sent is what the test wrote.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <stdexcept>
#include <string>
#include <string_view>

namespace sluice {

struct WireReply {
  int status = 0;
  std::string head;  // status line and headers
  std::string body;  // without chunk framing
  std::string header(const std::string& name) const {
    std::string lower;
    for (char c : head) lower += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    size_t at = lower.find("\r\n" + name + ": ");
    if (at == std::string::npos) return "";
    at += name.size() + 4;
    return head.substr(at, head.find("\r\n", at) - at);
  }
};

class Wire {
 public:
  explicit Wire(int port) : fd_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (::connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) throw std::runtime_error("connect");
  }
  Wire(Wire&& other) noexcept : fd_(std::exchange(other.fd_, -1)), rest_(std::move(other.rest_)) {}
  ~Wire() {
    if (fd_ >= 0) ::close(fd_);
  }

  void send(std::string_view text) {
    while (!text.empty()) {
      ssize_t n = ::send(fd_, text.data(), text.size(), MSG_NOSIGNAL);
      if (n <= 0) return;  // the server may close early; its reply is what counts
      text.remove_prefix(static_cast<size_t>(n));
    }
  }
  // False at the end of the stream or after `seconds` of silence.
  bool more(double seconds = 10) {
    pollfd p{fd_, POLLIN, 0};
    if (::poll(&p, 1, static_cast<int>(seconds * 1000)) <= 0) return false;
    char buffer[65536];
    ssize_t n = ::recv(fd_, buffer, sizeof buffer, 0);
    if (n <= 0) return false;
    rest_.append(buffer, static_cast<size_t>(n));
    return true;
  }
  std::string until(std::string_view mark) {
    size_t at;
    while ((at = rest_.find(mark)) == std::string::npos)
      if (!more()) return std::exchange(rest_, "");
    std::string out = rest_.substr(0, at + mark.size());
    rest_.erase(0, at + mark.size());
    return out;
  }
  std::string exactly(size_t size) {
    while (rest_.size() < size && more()) {
    }
    std::string out = rest_.substr(0, size);
    rest_.erase(0, size);
    return out;
  }
  WireReply reply() {
    WireReply r;
    r.head = until("\r\n\r\n");
    if (r.head.size() > 12) r.status = std::atoi(r.head.c_str() + 9);
    if (r.header("transfer-encoding") == "chunked") {
      while (true) {
        size_t size = std::strtoul(until("\r\n").c_str(), nullptr, 16);
        r.body += exactly(size);
        until("\r\n");
        if (size == 0) break;
      }
    } else {
      r.body = exactly(static_cast<size_t>(std::atoi(r.header("content-length").c_str())));
    }
    return r;
  }
  bool closed(double seconds = 5) {  // the server ends the connection
    while (more(seconds)) {
    }
    pollfd p{fd_, POLLIN, 0};
    char c;
    return ::poll(&p, 1, 0) > 0 && ::recv(fd_, &c, 1, MSG_DONTWAIT) <= 0;
  }
  int descriptor() const { return fd_; }

 private:
  int fd_;
  std::string rest_;
};

inline std::string post(const std::string& path, const std::string& body, const std::string& headers = "") {
  return "POST " + path +
         " HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: " + std::to_string(body.size()) +
         "\r\n" + headers + "\r\n" + body;
}
inline std::string get(const std::string& path, const std::string& headers = "", const std::string& method = "GET") {
  return method + " " + path + " HTTP/1.1\r\nhost: x\r\n" + headers + "\r\n";
}
inline WireReply ask(int port, const std::string& text) {
  Wire wire(port);
  wire.send(text);
  return wire.reply();
}

}  // namespace sluice
