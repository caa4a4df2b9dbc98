// SPDX-License-Identifier: Apache-2.0
// A server on loopback that says what a test tells it to, whatever that is.
#pragma once

#include <doctest/doctest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <functional>
#include <string>
#include <thread>

#include "client/http_client.h"

namespace sluice::test {

// Answers each connection with a function of (number of the connection, request bytes) until the function returns "".
class Script {
 public:
  using Answer = std::function<std::string(int, const std::string&)>;
  explicit Script(Answer answer) : answer_(std::move(answer)), fd_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    REQUIRE(::bind(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
    REQUIRE(::listen(fd_, 64) == 0);
    socklen_t length = sizeof address;
    getsockname(fd_, reinterpret_cast<sockaddr*>(&address), &length);
    port = ntohs(address.sin_port);
    thread_ = std::thread([this] {
      for (int n = 0;; ++n) {
        int c = ::accept(fd_, nullptr, nullptr);
        if (c < 0) return;
        while (true) {
          std::string request;
          char buffer[65536];
          while (request.find("\r\n\r\n") == std::string::npos || !whole(request)) {
            ssize_t got = ::recv(c, buffer, sizeof buffer, 0);
            if (got <= 0) break;
            request.append(buffer, static_cast<size_t>(got));
          }
          if (request.empty()) break;
          std::string reply = answer_(n, request);
          if (reply.empty()) break;
          (void)!::send(c, reply.data(), reply.size(), MSG_NOSIGNAL);
          if (reply.find("Connection: close") != std::string::npos) break;
        }
        ::close(c);
      }
    });
  }
  ~Script() {
    ::shutdown(fd_, SHUT_RDWR);
    thread_.join();
    ::close(fd_);
  }
  Url url() const { return Url::parse("127.0.0.1:" + std::to_string(port)); }
  int port = 0;

 private:
  static bool whole(const std::string& request) {
    size_t head = request.find("\r\n\r\n"), at = request.find("Content-Length: ");
    if (at == std::string::npos || at > head) return true;
    return request.size() >= head + 4 + static_cast<size_t>(std::atoi(request.c_str() + at + 16));
  }
  Answer answer_;
  int fd_;
  std::thread thread_;
};

}  // namespace sluice::test
