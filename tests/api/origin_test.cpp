// SPDX-License-Identifier: Apache-2.0
#include "api/origin.h"

#include <doctest/doctest.h>

using namespace sluice;

TEST_CASE("pages are allowed by their whole origin, by being local, or all at once") {
  CHECK(origin_allowed("http://localhost:20001", {"local"}));
  CHECK(origin_allowed("http://127.0.0.1", {"local"}));
  CHECK(origin_allowed("http://[::1]:8080", {"local"}));
  CHECK(origin_allowed("HTTP://LOCALHOST:1", {"local"}));
  CHECK_FALSE(origin_allowed("http://localhost.evil.org", {"local"}));
  CHECK_FALSE(origin_allowed("https://evil.org", {"local"}));
  CHECK_FALSE(origin_allowed("null", {"local"}));
  CHECK(origin_allowed("https://portal.cluster.org", {"local", "https://portal.cluster.org"}));
  CHECK_FALSE(origin_allowed("https://portal.cluster.org:8443", {"https://portal.cluster.org"}));
  CHECK(origin_allowed("https://anywhere", {"*"}));
  CHECK_FALSE(origin_allowed("http://localhost", {}));
}

TEST_CASE("a server answers to addresses, to localhost and to its own names") {
  const std::vector<std::string> names = {"cn-g017.server.mila.quebec"};
  for (const char* good : {"", "localhost:3000", "127.0.0.1", "10.0.0.7:10148", "[::1]:80", "[fe80::1]", "cn-g017",
                           "CN-G017:10148", "cn-g017.server.mila.quebec:10148"})
    CHECK(host_allowed(good, names));
  for (const char* bad : {"evil.org", "cn-g01", "cn-g017.evil.org", "localhost.evil.org", "1.2.3.4.evil.org"})
    CHECK_FALSE(host_allowed(bad, names));
  CHECK(host_allowed("evil.org", {"*"}));
  CHECK(host_allowed("n1.cluster", {"n1"}));
}

TEST_CASE("a page is at home on the host that served it") {
  CHECK(same_host("http://cn-g017:10148", "cn-g017:10148"));
  CHECK(same_host("https://CN-G017", "cn-g017:10148"));
  CHECK(same_host("http://[fe80::1]:80", "[fe80::1]"));
  for (const char* other : {"http://evil.org", "null", "", "cn-g017", "http://cn-g017.evil.org"})
    CHECK_FALSE(same_host(other, "cn-g017:10148"));
  CHECK_FALSE(same_host("http://", ""));
}

TEST_CASE("lists are separated by commas and trimmed") {
  CHECK(comma_list(" a, b ,,c") == std::vector<std::string>{"a", "b", "c"});
  CHECK(comma_list("").empty());
}
