// SPDX-License-Identifier: Apache-2.0
#include "api/pump.h"

#include <doctest/doctest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <deque>

#include "base/clock.h"

using namespace sluice;

namespace {

// A connection's thread with its stream, and the reader's end of its socket.
struct Line {
  explicit Line(StreamPump& pump, std::string_view keep_alive = "")
      : stream(std::make_shared<StreamPump::Stream>(pump)) {
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
    reply.keep_alive = keep_alive;
    reply.stream = [this](std::string& out) {
      std::lock_guard lock(mutex);
      out += waiting;
      waiting.clear();
      return !over;
    };
    thread = std::thread([this] {
      whole = stream->write(ends[0], false, reply);
      ::shutdown(ends[0], SHUT_WR);
    });
  }
  ~Line() {
    if (thread.joinable()) thread.join();
    for (int end : ends) ::close(end);
  }
  void say(std::string_view text, bool last = false) {
    {
      std::lock_guard lock(mutex);
      waiting += text;
      over = last;
    }
    stream->ready();
  }
  std::string read(size_t size) {
    std::string out(size, '\0');
    const ssize_t n = ::recv(ends[1], out.data(), size, MSG_WAITALL);
    out.resize(static_cast<size_t>(std::max<ssize_t>(n, 0)));
    return out;
  }

  std::mutex mutex;
  std::string waiting;
  bool over = false;
  std::atomic<bool> whole = false;
  int ends[2];
  Reply reply;
  std::shared_ptr<StreamPump::Stream> stream;
  std::thread thread;
};

}  // namespace

TEST_CASE("every byte of many streams arrives once and in order") {
  constexpr int kStreams = 40, kSteps = 500;
  StreamPump pump(5, 15);
  std::deque<Line> lines;
  for (int i = 0; i < kStreams; ++i) lines.emplace_back(pump);
  std::string expected;
  for (int step = 0; step < kSteps; ++step) {
    const std::string text = std::to_string(step) + ' ';
    expected += text;
    for (Line& line : lines) line.say(text, step + 1 == kSteps);
  }
  for (Line& line : lines) {
    CHECK(line.read(expected.size() + 1) == expected);
    line.stream->ready();  // too late, and harmless
  }
}

TEST_CASE("a reader that takes nothing delays nobody else and loses nothing") {
  StreamPump pump(5, 15);
  Line slow(pump), quick(pump);
  const std::string much(4 << 20, 'x');
  slow.say(much);
  double longest = 0;
  for (int i = 0; i < 50; ++i) {
    const double start = monotonic_seconds();
    quick.say("ping");
    CHECK(quick.read(4) == "ping");
    longest = std::max(longest, monotonic_seconds() - start);
  }
  CHECK(longest < 2);  // the slow one is given 5 s; microseconds on a quiet machine
  quick.say("", true);
  slow.say("the end", true);
  CHECK(slow.read(much.size() + 8) == much + "the end");
}

TEST_CASE("a stream whose reader has gone ends, and says so") {
  StreamPump pump(5, 15);
  Line line(pump);
  line.say("first");
  CHECK(line.read(5) == "first");
  ::shutdown(line.ends[1], SHUT_RD);
  line.say("second");
  line.thread.join();
  CHECK(!line.whole);
}

TEST_CASE("a silent stream is kept alive, one that speaks is left alone") {
  StreamPump pump(5, 0.05);
  Line silent(pump, "."), plain(pump);
  silent.say("a");
  std::string first;
  do first = silent.read(1);
  while (first == ".");  // it may have been silent before
  CHECK(first + silent.read(2) == "a..");
  silent.say("b", true);
  std::string rest = silent.read(1000);
  CHECK(rest.ends_with("b"));
  CHECK(rest.find_first_not_of('.') == rest.size() - 1);
  plain.say("done", true);
  CHECK(plain.read(1000) == "done");
}
