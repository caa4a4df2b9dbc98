// SPDX-License-Identifier: Apache-2.0
// Bytes on a server's connection: every answer is HTTP, the connection ends, and the next one is served.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cstring>

#include "api/transport.h"
#include "client/http_reader.h"
#include "fuzz/fuzz.h"

using namespace sluice;

namespace {
struct Target {
  int port = 0;
  Transport transport;
  Target()
      : transport(
            listen_on("127.0.0.1", {0}, port),
            {.max_body = 4096, .max_head = 8192, .head_seconds = 2, .body_seconds = 2, .counted = {}},
            [](HttpRequest& request, const Transport::ReadBody& read, Reply& reply) {
              const BodyResult result = read();
              fuzz::demand(request.body.size() <= 4096, "a body above the limit");
              reply.content(result == BodyResult::kOk ? 200 : 400, "text/plain", "done");
              reply.headers.add("x-fuzz", "1");
              if (!request.path.starts_with("/stream")) return;
              reply.stream = [left = 4, ready = reply.ready](std::string& out) mutable {
                if (--left != 2) out += "a piece";  // one call without a byte
                fuzz::demand(left >= 0, "a stream goes on after its end");
                ready();
                return left > 0;
              };
            },
            [](int status, Reply& reply) { reply.content(status, "text/plain", "refused"); }) {}
};
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Target target;
  size = std::min<size_t>(size, 64 << 10);  // what the socket takes before anybody reads
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(target.port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  fuzz::demand(fd >= 0 && ::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0,
               "the server takes no connection");
  const linger abandon{1, 0};  // no TIME_WAIT: thousands of connections follow
  ::setsockopt(fd, SOL_SOCKET, SO_LINGER, &abandon, sizeof abandon);
  (void)!::send(fd, data, size, MSG_NOSIGNAL);
  ::shutdown(fd, SHUT_WR);
  std::string answer;
  char buffer[4096];
  for (ssize_t n; (n = ::recv(fd, buffer, sizeof buffer, 0)) > 0;) answer.append(buffer, static_cast<size_t>(n));
  ::close(fd);
  fuzz::demand(answer.empty() || answer.starts_with("HTTP/1."), "an answer that is not HTTP");
  return 0;
}
