// SPDX-License-Identifier: Apache-2.0
#include "control/hello.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include "control/wire.h"

using namespace sluice;

namespace {
Hello sample() {
  Hello hello;
  hello.place = {
      .rank = 3, .host = "n2", .boot_id = "b-1", .local_rank = 1, .device_uuid = "MIG-77", .visible_devices = 4};
  hello.world = 16;
  hello.pid = 1ll << 33;
  hello.cpus = 96;
  hello.build = "abcd";
  return hello;
}
}  // namespace

TEST_CASE("a hello survives the wire") {
  const Hello sent = sample();
  std::string bytes;
  serialise(sent, bytes);
  Hello got;
  REQUIRE(parse(bytes, got));
  std::string again;
  serialise(got, again);
  CHECK(again == bytes);
  CHECK(got.pid == sent.pid);
  CHECK(got.place.device_uuid == "MIG-77");
  CHECK(to_string(got) == "rank 3 on n2 (pid 8589934592)");
}

TEST_CASE("a hello that is cut short or too long is not one") {
  std::string bytes;
  serialise(sample(), bytes);
  Hello got;
  for (size_t n = 0; n < bytes.size(); ++n) CHECK_FALSE(parse(std::string_view(bytes).substr(0, n), got));
  CHECK_FALSE(parse(bytes + "x", got));
}

TEST_CASE("a process describes itself") {
  Launch launch;
  launch.rank = 2;
  launch.world = 4;
  launch.local_rank = 1;
  const Hello hello = describe_process(launch);
  CHECK(hello.pid == ::getpid());
  CHECK(hello.place.rank == 2);
  CHECK(hello.world == 4);
  CHECK(hello.place.local_rank == 1);
  CHECK(!hello.place.host.empty());
  CHECK(hello.cpus >= 1);
  CHECK(hello.build.size() >= 16);
  CHECK(hello.build.find_first_not_of("0123456789abcdef") == std::string::npos);
}

TEST_CASE("reading beyond the end of bytes fails for good") {
  std::string bytes;
  put_u32(bytes, 7);
  ByteReader reader(bytes);
  CHECK(reader.u32() == 7);
  CHECK(reader.ok());
  CHECK(reader.u64() == 0);
  CHECK_FALSE(reader.ok());
  CHECK(reader.string().empty());
}
