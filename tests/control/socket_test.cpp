// SPDX-License-Identifier: Apache-2.0
#include "control/socket.h"

#include <doctest/doctest.h>

#include <cerrno>

#include "base/clock.h"
#include "control/auth.h"

using namespace sluice;

TEST_CASE("HOST:PORT is taken apart, and nothing else is accepted") {
  CHECK(parse_host_port("n1:20148") == std::pair<std::string, uint16_t>{"n1", 20148});
  CHECK(parse_host_port("[fe80::1]:7") == std::pair<std::string, uint16_t>{"fe80::1", 7});
  for (const char* bad : {"", ":", "n1", "n1:", ":80", "n1:0", "n1:65536", "n1:-1", "n1:8x", "fe80::1:7", "[]:1"})
    CHECK_FALSE(parse_host_port(bad).has_value());
}

TEST_CASE("a port where nobody listens is refused at once") {
  int error = 0;
  const auto addresses = resolve("127.0.0.1", 1);
  REQUIRE(addresses.size() == 1);
  CHECK(addresses[0].text == "127.0.0.1:1");
  CHECK_FALSE(connect_to(addresses[0], monotonic_seconds() + 5, error));
  CHECK(error == ECONNREFUSED);
}

TEST_CASE("reading stops at the deadline") {
  int ends[2];
  REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
  Socket a(ends[0]), b(ends[1]);
  REQUIRE(write_all(a.fd(), "abc", monotonic_seconds() + 1));
  char got[4];
  const double start = monotonic_seconds();
  CHECK_FALSE(read_exactly(b.fd(), got, 4, start + 0.1));
  CHECK(errno == ETIMEDOUT);
  CHECK(monotonic_seconds() - start >= 0.1);
  a.close();
  CHECK_FALSE(read_exactly(b.fd(), got, 1, monotonic_seconds() + 5));
  CHECK(errno == ECONNRESET);
}

TEST_CASE("a signature depends on the key, and moving a byte between parts changes it") {
  const Digest one = sign("Jefe", {"ab", "c"}), other = sign("Jefe", {"a", "bc"});
  CHECK_FALSE(same(one, other));
  CHECK(same(one, sign("Jefe", {"ab", "c"})));
  CHECK_FALSE(same(one, sign("jefe", {"ab", "c"})));
  CHECK_FALSE(random_nonce() == random_nonce());
}
