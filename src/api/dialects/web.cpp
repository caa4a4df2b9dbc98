// SPDX-License-Identifier: Apache-2.0
// The web page at `/` for browsers: those that ask for text/html. API clients get their JSON there as ever.
#include "api/web/web.h"
#include "api/dialect.h"

namespace sluice {
namespace {

bool wants_page(const Headers& headers, const BodyOutline&) {
  return headers.get("accept").find("text/html") != std::string_view::npos;
}

void page(const HttpRequest&, Reply& reply, const RouteContext&) {
  reply.content(200, "text/html; charset=utf-8", std::string(web_page()));
  reply.headers.add("cache-control", "no-cache");
  reply.headers.add("vary", "accept");
  reply.headers.add("x-content-type-options", "nosniff");
  // Nothing from elsewhere; a second server for comparison is the one thing that scripts may speak to.
  reply.headers.add("content-security-policy",
                    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; "
                    "connect-src 'self' http: https:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'");
}

void error(const Failure& failure, const HttpRequest&, Reply& reply) {
  reply.content(failure.status != 0 ? failure.status : 500, "text/plain; charset=utf-8", failure.message + "\n");
}

const RegisterDialect registered{{
    .name = "web",
    .routes = {{"GET", "/", page, true, false, wants_page, 20}},
    .error = error,
}};

}  // namespace
}  // namespace sluice
