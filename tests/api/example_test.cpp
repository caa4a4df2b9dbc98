// SPDX-License-Identifier: Apache-2.0
// The example of docs/add-a-dialect.md, cut out of the page and built as it stands there.
#include <doctest/doctest.h>

#include "api/fake_engine.h"
#include "api/server.h"
#include "api/wire.h"

using namespace sluice;

TEST_CASE("the dialect of the manual answers, refuses and is told apart") {
  Router router(dialects());
  CHECK(router.find("POST", "/echo/complete").dialect->name == "example");
  ServerOptions options;
  options.host = "127.0.0.1";
  options.ports = {0};
  Server server(options);
  FakeEngine engine;
  Service service = engine.service(server.metrics());
  server.ready(service);
  WireReply reply = ask(server.port(), post("/echo/complete", R"({"prompt":"abc","length":2})"));
  CHECK(reply.status == 200);
  CHECK(reply.body == R"({"text":"Hi"})");
  reply = ask(server.port(), post("/echo/complete", R"({"length":2})"));
  CHECK(reply.status == 400);
  CHECK(reply.body == R"({"problem":"prompt: expected a string, found nothing"})");
  engine.refuse = true;
  CHECK(ask(server.port(), post("/echo/complete", R"({"prompt":"abc"})")).status == 429);
}
