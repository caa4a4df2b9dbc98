// SPDX-License-Identifier: Apache-2.0
#include "api/web/web.h"

#include <doctest/doctest.h>

#include "api/fake_engine.h"
#include "api/server.h"
#include "api/wire.h"

using namespace sluice;

namespace {
struct Fixture {
  explicit Fixture(std::string key, std::vector<std::string> names = {"*"}) {
    ServerOptions options;
    options.host = "127.0.0.1";
    options.ports = {0};
    options.key = std::move(key);
    options.names = std::move(names);
    server = std::make_unique<Server>(options);
    service = engine.service(server->metrics());
    server->ready(service);
  }
  ~Fixture() { server->stop(0); }
  WireReply send(const std::string& text) const { return ask(server->port(), text); }
  FakeEngine engine;
  Service service;
  std::unique_ptr<Server> server;
};
}  // namespace

TEST_CASE("a browser gets the page without a key, an API client what it always got") {
  const Fixture server("secret");
  const WireReply page =
      server.send("GET / HTTP/1.1\r\nHost: x\r\nAccept: text/html,application/xhtml+xml\r\nConnection: close\r\n\r\n");
  CHECK(page.status == 200);
  CHECK(page.header("content-type") == "text/html; charset=utf-8");
  CHECK(page.header("content-security-policy").find("default-src 'none'") != std::string::npos);
  CHECK(page.body == web_page());
  CHECK(server.send("GET / HTTP/1.1\r\nHost: x\r\nAccept: */*\r\nConnection: close\r\n\r\n").status == 401);
  const WireReply status =
      server.send("GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret\r\nConnection: close\r\n\r\n");
  CHECK(status.status == 200);
  CHECK(status.header("content-type").find("json") != std::string::npos);
}

TEST_CASE("the page is whole and asks nobody else for anything") {
  const std::string page(web_page());
  CHECK(page.find("{{") == std::string::npos);
  CHECK(page.find("const chat = {") != std::string::npos);
  CHECK(page.find("--accent") != std::string::npos);
  for (const char* outside : {"src=\"http", "href=\"http", "@import", "url(http", "integrity="})
    CHECK(page.find(outside) == std::string::npos);
}

TEST_CASE("pages of localhost may call the server, others may not") {
  const Fixture server("secret");
  const WireReply asked = server.send(
      "OPTIONS /v1/chat/completions HTTP/1.1\r\nHost: x\r\nOrigin: http://localhost:20001\r\n"
      "Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: "
      "authorization,content-type\r\nConnection: close\r\n\r\n");
  CHECK(asked.status == 204);
  CHECK(asked.header("access-control-allow-origin") == "http://localhost:20001");
  CHECK(asked.header("access-control-allow-headers").find("authorization") != std::string::npos);
  const WireReply answered = server.send(
      "GET /v1/models HTTP/1.1\r\nHost: x\r\nOrigin: http://localhost:20001\r\nAuthorization: Bearer "
      "secret\r\nConnection: close\r\n\r\n");
  CHECK(answered.status == 200);
  CHECK(answered.header("access-control-allow-origin") == "http://localhost:20001");
  const WireReply foreign = server.send(
      "GET /v1/models HTTP/1.1\r\nHost: x\r\nOrigin: https://evil.org\r\nAuthorization: Bearer secret\r\nConnection: "
      "close\r\n\r\n");
  CHECK(foreign.header("access-control-allow-origin").empty());
}

TEST_CASE("without a key only its own names lead to the server") {
  const Fixture server("", {"n1"});
  CHECK(server.send("GET /v1/models HTTP/1.1\r\nHost: n1:10148\r\nConnection: close\r\n\r\n").status == 200);
  CHECK(server.send("GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").status == 200);
  const WireReply refused = server.send("GET /v1/models HTTP/1.1\r\nHost: evil.org\r\nConnection: close\r\n\r\n");
  CHECK(refused.status == 403);
  CHECK(refused.body.find("ALLOWED_HOSTS") != std::string::npos);
  const Fixture keyed("secret", {"n1"});
  CHECK(keyed.send("GET /health HTTP/1.1\r\nHost: evil.org\r\nConnection: close\r\n\r\n").status == 200);
}

TEST_CASE("without a key the server does nothing for pages that may not call it") {
  const Fixture server("", {"n1"});
  const auto post = [&](const char* origin) {
    return server.send(std::string("POST /generate HTTP/1.1\r\nHost: n1:10148\r\nOrigin: ") + origin +
                       "\r\nContent-Type: text/plain\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}");
  };
  const WireReply refused = post("https://evil.org");
  CHECK(refused.status == 403);
  CHECK(refused.body.find("CORS_ALLOW_ORIGIN") != std::string::npos);
  CHECK(post("null").status == 403);
  for (const char* own : {"http://n1:10148", "http://localhost:4000"}) CHECK(post(own).status == 415);
}
