// SPDX-License-Identifier: Apache-2.0
#include "control/frame_reader.h"

#include <doctest/doctest.h>
#include <sys/socket.h>

#include <random>
#include <string>
#include <thread>

#include "base/clock.h"
#include "control/outbox.h"
#include "control/socket.h"

using namespace sluice;

namespace {
struct Pair {
  Socket a, b;
  Pair() {
    int ends[2];
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
    a = Socket(ends[0]);
    b = Socket(ends[1]);
  }
};
std::string frame(FrameType type, const std::string& payload) {
  std::string out(kFrameHeader, '\0');
  frame_header(out.data(), type, static_cast<uint32_t>(payload.size()));
  return out + payload;
}
std::string text(const std::vector<std::byte>& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}
}  // namespace

TEST_CASE("frames arrive whole however the stream is cut") {
  std::mt19937 random(7);
  std::vector<std::string> sent;
  std::string stream;
  for (int i = 0; i < 60; ++i) {
    const size_t size = i % 10 == 9 ? 300000 + random() % 100000 : random() % 3000;
    std::string payload(size, '\0');
    for (auto& c : payload) c = static_cast<char>(random());
    sent.push_back(payload);
    stream += frame(FrameType::kMessage, payload);
  }
  Pair pair;
  std::thread writer([&] {
    std::string_view rest = stream;
    while (!rest.empty()) {
      const size_t n = std::min<size_t>(rest.size(), 1 + random() % 50000);
      if (!write_all(pair.a.fd(), rest.substr(0, n), monotonic_seconds() + 20)) break;
      rest.remove_prefix(n);
    }
    pair.a.close();
  });
  std::vector<std::string> got;
  FrameReader reader;
  int offered = 0;
  FrameReader::State state;
  do {
    state = reader.read(pair.b.fd(), [&](FrameType type, std::vector<std::byte>& payload) {
      if (++offered % 3 == 0) return false;  // no room: the same frame must come again
      CHECK(type == FrameType::kMessage);
      got.push_back(text(payload));
      return true;
    });
  } while (state == FrameReader::State::kOk);
  writer.join();
  CHECK(state == FrameReader::State::kClosed);
  CHECK((got == sent));
}

TEST_CASE("bytes that are no frame break the stream for good") {
  for (const auto& bad :
       {frame(static_cast<FrameType>(0), ""), frame(static_cast<FrameType>(99), ""), frame(FrameType::kHeartbeat, "x"),
        frame(FrameType::kTable, ""), std::string("GET / HTTP/1.1\r\n\r\n"), std::string(8, '\xff')}) {
    Pair pair;
    FrameReader reader;
    const auto refuse = [](FrameType, std::vector<std::byte>&) { return true; };
    REQUIRE(write_all(pair.a.fd(), bad, monotonic_seconds() + 1));
    CHECK(reader.read(pair.b.fd(), refuse) == FrameReader::State::kBroken);
    CHECK(reader.read(pair.b.fd(), refuse) == FrameReader::State::kBroken);
  }
}

TEST_CASE("the outbox sends to each connection at its own pace and waits for the slowest") {
  Outbox outbox(4);
  Pair fast, slow;
  Outbox::Cursor at_fast, at_slow;
  const std::string big(3 << 20, 'b');
  REQUIRE(outbox.put_message({reinterpret_cast<const std::byte*>(big.data()), big.size()}));
  REQUIRE(outbox.put_control(FrameType::kGoodbye, {}));
  CHECK(outbox.end() == 2);
  std::string got;
  FrameReader reader;
  bool bye = false;
  const auto keep = [&](FrameType type, std::vector<std::byte>& payload) {
    if (type == FrameType::kGoodbye)
      bye = true;
    else
      got = text(payload);
    return true;
  };
  for (int i = 0; i < 10000 && !bye; ++i) {
    outbox.flush(fast.a.fd(), at_fast);
    reader.read(fast.b.fd(), keep);
  }
  CHECK((got == big));
  CHECK(at_fast.next == 2);
  CHECK(outbox.flush(slow.a.fd(), at_slow) == Outbox::Sent::kSome);
  CHECK(at_slow.next == 0);
  for (int i = 0; i < 2; ++i) REQUIRE(outbox.put_message({}));
  CHECK(outbox.full());
  std::thread waiting([&] { outbox.put_message({}); });
  outbox.retire(2);
  waiting.join();
  CHECK(outbox.end() == 5);
  outbox.close();
  CHECK_FALSE(outbox.put_message({}));
}
