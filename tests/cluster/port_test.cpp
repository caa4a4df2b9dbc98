// SPDX-License-Identifier: Apache-2.0
#include "cluster/port.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include <algorithm>
#include <set>

#include "base/error.h"

using namespace sluice;

TEST_CASE("the port is 10000 plus the last four decimal digits of the job id") {
  CHECK(http_ports(3430148, {}, {}).front() == 10148);  // 0148 is not octal
  CHECK(http_ports(9, {}, {}).front() == 10009);
  CHECK(http_ports(4294967295u, {}, {}).front() == 17295);
  CHECK(rendezvous_ports(3430148, "", {}).front() == 20148);
}

TEST_CASE("the walk visits every port of its range once, and is the same every time") {
  const auto ports = http_ports(10148, {}, {});
  CHECK(ports.size() == 10000);
  CHECK(std::set<uint16_t>(ports.begin(), ports.end()).size() == 10000);
  CHECK(*std::min_element(ports.begin(), ports.end()) == 10000);
  CHECK(*std::max_element(ports.begin(), ports.end()) == 19999);
  CHECK(ports == http_ports(20148, {}, {}));
}

TEST_CASE("neighbouring jobs do not walk into each other's first choices") {
  const auto ports = http_ports(100, {}, {});
  for (int job = 101; job < 200; ++job) {
    CHECK(std::find(ports.begin(), ports.begin() + 10, http_ports(static_cast<uint32_t>(job), {}, {}).front()) ==
          ports.begin() + 10);
  }
}

TEST_CASE("a fixed port never walks") { CHECK(http_ports(3430148, uint16_t{8080}, {}) == std::vector<uint16_t>{8080}); }

TEST_CASE("without a job the ports start at 3000") {
  const auto ports = http_ports({}, {}, {});
  CHECK(ports.front() == 3000);
  CHECK(ports[1] == 3001);
  CHECK(ports.size() == 100);
}

TEST_CASE("no port lies in the range of outgoing connections") {
  const PortLimits low{.ephemeral_first = 15000, .ephemeral_last = 60999, .reserved = {}};
  const auto ports = http_ports(9999, {}, low);
  CHECK(ports.size() == 5000);
  CHECK(std::all_of(ports.begin(), ports.end(), [](uint16_t port) { return port >= 10000 && port < 15000; }));
}

TEST_CASE("a site that lowers the range below 10000 gets the ports under it") {
  const PortLimits low{.ephemeral_first = 9000, .ephemeral_last = 65535, .reserved = {}};
  const auto ports = http_ports(10148, {}, low);
  CHECK(ports.size() == 1000);
  CHECK(ports.front() == 8148);
  CHECK(std::all_of(ports.begin(), ports.end(), [](uint16_t port) { return port >= 8000 && port < 9000; }));
}

TEST_CASE("ports that the site reserves inside the range are usable") {
  const PortLimits limits = parse_port_limits("9000\t65535\n", "10000-10099,18080\n");
  const auto ports = http_ports(10148, {}, limits);
  CHECK(ports.size() == 101);
  CHECK(limits.safe(18080));
  CHECK_FALSE(limits.safe(18081));
  CHECK(limits.safe(8999));
}

TEST_CASE("a machine whose range covers every port asks for a fixed one") {
  CHECK_THROWS_WITH_AS(http_ports(1, {}, {.ephemeral_first = 1024, .ephemeral_last = 65535, .reserved = {}}),
                       doctest::Contains("--port"), Error);
}

TEST_CASE("unreadable kernel limits are refused") {
  CHECK_THROWS_WITH_AS(parse_port_limits("32768", ""), doctest::Contains("expected two ports"), Error);
  CHECK_THROWS_WITH_AS(parse_port_limits("a b", ""), doctest::Contains("expected port numbers"), Error);
}

TEST_CASE("ranks without a job meet at a port that their run id chooses") {
  CHECK(rendezvous_ports({}, "ompi-1", {}).front() == rendezvous_ports({}, "ompi-1", {}).front());
  CHECK(rendezvous_ports({}, "ompi-1", {}).front() != rendezvous_ports({}, "ompi-2", {}).front());
}

TEST_CASE("listening takes the next port when the first is taken") {
  const Listener first = listen_first("127.0.0.1", {0}, 16, "test");
  const Listener second = listen_first("127.0.0.1", {first.port, 0}, 16, "test");
  CHECK(second.port != first.port);
  CHECK_THROWS_WITH_AS(listen_first("127.0.0.1", {first.port}, 16, "--port"),
                       doctest::Contains("(--port): Address already in use"), Error);
  ::close(first.fd);
  const Listener again = listen_first("127.0.0.1", {first.port}, 16, "test");
  CHECK(again.port == first.port);
  ::close(second.fd);
  ::close(again.fd);
}

TEST_CASE("an address that is not one is refused") {
  CHECK_THROWS_WITH_AS(listen_first("localhost:80", {0}, 16, "test"), doctest::Contains("expected an address"), Error);
}
