// SPDX-License-Identifier: Apache-2.0
#include "client/relay.h"

#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <mutex>
#include <thread>

#include "base/error.h"

using namespace sluice;

namespace {
// Answers every connection with `answer` and keeps what it was sent.
class Backend {
 public:
  explicit Backend(std::string answer, bool linger = false) : answer_(std::move(answer)), linger_(linger) {
    fd_ = ::socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    ::bind(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address);
    ::listen(fd_, 16);
    socklen_t length = sizeof address;
    ::getsockname(fd_, reinterpret_cast<sockaddr*>(&address), &length);
    port = ntohs(address.sin_port);
    thread_ = std::thread([this] { run(); });
  }
  ~Backend() {
    stop_ = true;
    thread_.join();
    ::close(fd_);
  }
  std::string seen() {
    const std::lock_guard lock(mutex_);
    return seen_;
  }
  bool client_left() const { return left_; }
  int port = 0;

 private:
  void run() {
    while (!stop_) {
      pollfd waiting{fd_, POLLIN, 0};
      if (::poll(&waiting, 1, 50) <= 0) continue;
      const int fd = ::accept(fd_, nullptr, nullptr);
      std::string text;
      char buffer[65536];
      size_t need = std::string::npos;
      while (text.size() < need) {
        const ssize_t n = ::recv(fd, buffer, sizeof buffer, 0);
        if (n <= 0) break;
        text.append(buffer, static_cast<size_t>(n));
        const size_t head = text.find("\r\n\r\n");
        if (head == text.npos) continue;
        const size_t at = text.find("Content-Length: ");
        need = head + 4 + (at < head ? std::stoul(text.substr(at + 16)) : 0);
      }
      {
        const std::lock_guard lock(mutex_);
        seen_ = text;
      }
      (void)!::send(fd, answer_.data(), answer_.size(), MSG_NOSIGNAL);
      if (linger_) left_ = ::recv(fd, buffer, sizeof buffer, 0) <= 0;
      ::close(fd);
    }
  }
  std::string answer_;
  bool linger_;
  int fd_ = -1;
  std::atomic<bool> stop_{false}, left_{false};
  std::mutex mutex_;
  std::string seen_;
  std::thread thread_;
};

std::string ok(const std::string& body) {
  return "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: " + std::to_string(body.size()) + "\r\n\r\n" +
         body;
}
RelayTarget to(int port, std::string key = {}, uint64_t tag = 0) {
  return {Url::parse("http://127.0.0.1:" + std::to_string(port)), std::move(key), tag};
}
Url at(const Relay& relay) { return Url::parse("http://127.0.0.1:" + std::to_string(relay.port())); }
const Relay::Ended kIgnore = [](const RelayTarget&, RelayOutcome) {};
}  // namespace

TEST_CASE("a request is handed on with the key, its body and its headers, and the answer comes back") {
  Backend backend(ok("hello"));
  Relay relay(
      {}, [&](const RelayRequest&, std::string&) { return to(backend.port, "secret"); }, kIgnore);
  HttpClient client(at(relay), "anything");
  const ClientReply reply = client.send("POST", "/v1/x?y=1", {{"X-Mine", "1"}}, "{\"a\":1}");
  CHECK(reply.head.status == 200);
  CHECK(reply.body == "hello");
  const std::string seen = backend.seen();
  CHECK(seen.starts_with("POST /v1/x?y=1 HTTP/1.1\r\n"));
  CHECK(seen.find("Authorization: Bearer secret\r\n") != seen.npos);
  CHECK(seen.find("anything") == seen.npos);
  CHECK(seen.find("X-Mine: 1\r\n") != seen.npos);
  CHECK(seen.ends_with("\r\n\r\n{\"a\":1}"));
}

TEST_CASE("a large body arrives whole") {
  Backend backend(ok("got it"));
  Relay relay(
      {}, [&](const RelayRequest&, std::string&) { return to(backend.port); }, kIgnore);
  HttpClient client(at(relay));
  const std::string body(20 << 20, 'x');
  CHECK(client.post_json("/v1/x", body).body == "got it");
  CHECK(backend.seen().size() > body.size());
}

TEST_CASE("what has not begun to answer is tried elsewhere, and refusals too") {
  Backend busy("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"), mute(""), good(ok("fine"));
  std::vector<uint64_t> ended;
  std::mutex mutex;
  Relay relay(
      {},
      [&](const RelayRequest& request, std::string&) -> std::optional<RelayTarget> {
        CHECK(request.failed.size() == static_cast<size_t>(request.attempt));
        const int ports[] = {busy.port, mute.port, 1, good.port};
        return to(ports[request.attempt], {}, static_cast<uint64_t>(request.attempt));
      },
      [&](const RelayTarget& target, RelayOutcome outcome) {
        const std::lock_guard lock(mutex);
        ended.push_back(target.tag * 10 + static_cast<uint64_t>(outcome));
      });
  HttpClient client(at(relay));
  CHECK(client.post_json("/generate", "{}").body == "fine");
  const auto all = [&] {
    const std::lock_guard lock(mutex);
    return ended.size() == 4;
  };
  for (int i = 0; i < 3000 && !all(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  const std::lock_guard lock(mutex);
  CHECK(ended == std::vector<uint64_t>{2, 11, 21, 30});
}

TEST_CASE("without a backend the client is told to come back") {
  Relay relay(
      {},
      [](const RelayRequest&, std::string& why) -> std::optional<RelayTarget> {
        why = "the job is pending (Priority)";
        return std::nullopt;
      },
      kIgnore);
  HttpClient client(at(relay));
  const ClientReply reply = client.get("/v1/models");
  CHECK(reply.head.status == 503);
  CHECK(reply.head.get("retry-after") == "2");
  CHECK(reply.body.find("pending (Priority)") != std::string::npos);
}

TEST_CASE("a choice that fails is the client's answer and not the end of the relay") {
  Relay relay(
      {}, [](const RelayRequest&, std::string&) -> std::optional<RelayTarget> { throw Error("no job 7"); }, kIgnore);
  for (int i = 0; i < 2; ++i) {
    const ClientReply reply = HttpClient(at(relay)).get("/v1/models");
    CHECK(reply.head.status == 503);
    CHECK(reply.body.find("no job 7") != std::string::npos);
  }
}

TEST_CASE("connections beyond the limit are told to come back") {
  RelayOptions options;
  options.max_connections = 1;
  Relay relay(
      options, [](const RelayRequest&, std::string&) { return std::nullopt; }, kIgnore);
  const int held = connect_to(at(relay), 2);
  for (int i = 0; i < 3000 && relay.connections() == 0; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  const int more = connect_to(at(relay), 2);
  pollfd waiting{more, POLLIN, 0};
  CHECK(::poll(&waiting, 1, 10000) == 1);
  char buffer[512] = {};
  CHECK(::recv(more, buffer, sizeof buffer - 1, 0) > 0);
  CHECK(std::string(buffer).starts_with("HTTP/1.1 503"));
  CHECK(std::string(buffer).find("too many connections") != std::string::npos);
  ::close(more);
  ::close(held);
}

TEST_CASE("a client that is still sending reads why it is refused") {
  RelayOptions options;
  options.max_body = 10;
  Relay relay(
      options, [](const RelayRequest&, std::string&) { return std::nullopt; }, kIgnore);
  const int fd = connect_to(at(relay), 2);
  const std::string head = "POST /x HTTP/1.1\r\nContent-Length: 200000\r\n\r\n", piece(10000, 'x');
  REQUIRE(::send(fd, head.data(), head.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(head.size()));
  for (int i = 0; i < 20; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    CHECK(::send(fd, piece.data(), piece.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(piece.size()));
  }
  char buffer[256] = {};
  CHECK(::recv(fd, buffer, sizeof buffer - 1, 0) > 0);
  CHECK(std::string(buffer).starts_with("HTTP/1.1 413"));
  ::close(fd);
}

TEST_CASE("a client that leaves is a backend's client that leaves") {
  Backend backend("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n", true);
  Relay relay(
      {}, [&](const RelayRequest&, std::string&) { return to(backend.port); }, kIgnore);
  {
    HttpClient client(at(relay));
    client.post_json("/stream", "{}", [](std::string_view) { return false; });
  }
  for (int i = 0; i < 3000 && !backend.client_left(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  CHECK(backend.client_left());
}

TEST_CASE("a relay with a key asks for it, except for health") {
  Backend backend(ok("in"));
  RelayOptions options;
  options.key = "mine";
  Relay relay(
      options, [&](const RelayRequest&, std::string&) { return to(backend.port, "theirs"); }, kIgnore);
  CHECK(HttpClient(at(relay)).get("/v1/models").head.status == 401);
  CHECK(HttpClient(at(relay), "wrong").get("/v1/models").head.status == 401);
  CHECK(HttpClient(at(relay), "mine").get("/v1/models").body == "in");
  CHECK(HttpClient(at(relay)).get("/health").body == "in");
}

TEST_CASE("the own user's connections are told from others by the kernel's table") {
  Backend backend(ok("in"));
  RelayOptions options;
  options.own_user = true;
  Relay relay(
      options, [&](const RelayRequest&, std::string&) { return to(backend.port); }, kIgnore);
  CHECK(HttpClient(at(relay)).get("/").body == "in");
  if (::geteuid() != 0) return;  // another user's connection needs the right to become one
  const pid_t child = ::fork();
  if (child == 0) {
    if (::setuid(65534) != 0) ::_exit(9);
    int status = 0;
    try {
      status = HttpClient(at(relay)).get("/").head.status;
    } catch (const Error&) {
    }
    ::_exit(status == 403 ? 0 : 1);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  CHECK(WEXITSTATUS(status) == 0);
}

TEST_CASE("malformed requests and bodies that are too large are answered by the relay") {
  Backend backend(ok("in"));
  RelayOptions options;
  options.max_body = 10;
  Relay relay(
      options, [&](const RelayRequest&, std::string&) { return to(backend.port); }, kIgnore);
  CHECK(HttpClient(at(relay)).post_json("/x", "12345678901").head.status == 413);
  const int fd = connect_to(at(relay), 2);
  const std::string text = "nonsense\r\n\r\n";
  (void)!::send(fd, text.data(), text.size(), 0);
  pollfd waiting{fd, POLLIN, 0};
  CHECK(::poll(&waiting, 1, 10000) == 1);
  char buffer[256] = {};
  CHECK(::recv(fd, buffer, sizeof buffer - 1, 0) > 0);
  CHECK(std::string(buffer).starts_with("HTTP/1.1 400"));
  ::close(fd);
}
