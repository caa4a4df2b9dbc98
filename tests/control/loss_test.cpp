// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <thread>

#include "base/clock.h"
#include "base/error.h"
#include "control/ranks.h"

using namespace sluice;

namespace {

// What each forked rank says at its end, in memory shared with the test.
struct Board {
  struct Line {
    std::atomic<bool> formed;
    char text[512];  // written once, by the thread that learns of the loss
  };
  Line* lines;
  explicit Board(int n)
      : lines(static_cast<Line*>(::mmap(nullptr, sizeof(Line) * static_cast<size_t>(n), PROT_READ | PROT_WRITE,
                                        MAP_SHARED | MAP_ANONYMOUS, -1, 0))) {}
  void write(int rank, const std::string& text) const {
    std::snprintf(lines[rank].text, sizeof lines[rank].text, "%s", text.c_str());
  }
  std::string read(int rank) const { return lines[rank].text; }
};

// A rank that waits for messages until the run is lost; exits 7 from the callback, as a server does.
pid_t start_rank(const TestRun& run, int rank, const Board& board, bool hang_in_callback = false) {
  return fork_child([&run, rank, &board, hang_in_callback] {
    auto options = run.options();
    if (hang_in_callback) options.exit_seconds = 1;
    options.on_lost = [&, rank](const std::string& reason) {
      board.write(rank, reason);
      while (hang_in_callback) ::pause();
      ::_exit(7);
    };
    auto plane = ControlPlane::form(options, run.launch(rank), run.hello(rank));
    plane->barrier("formed", 20);
    board.lines[rank].formed = true;
    for (;;) ::pause();  // as in a collective that never ends
    return 0;
  });
}

std::vector<pid_t> start_all(const TestRun& run, const Board& board) {
  std::vector<pid_t> pids;
  for (int r = 0; r < run.world(); ++r) pids.push_back(start_rank(run, r, board));
  const double deadline = monotonic_seconds() + 20;
  for (int r = 0; r < run.world(); ++r)
    while (!board.lines[r].formed && monotonic_seconds() < deadline) ::usleep(1000);
  return pids;
}

}  // namespace

TEST_CASE("kill -9 of any rank ends all others, with its name") {
  for (int victim : {0, 2}) {
    TestRun run(4);
    Board board(4);
    const auto pids = start_all(run, board);
    ::kill(pids[static_cast<size_t>(victim)], SIGKILL);
    const double start = monotonic_seconds();
    for (int r = 0; r < 4; ++r) {
      CHECK(wait_child(pids[static_cast<size_t>(r)], 10) == (r == victim ? 128 + SIGKILL : 7));
      if (r == victim) continue;
      INFO(board.read(r));
      CHECK(board.read(r).find(fmt::format("rank {} on ", victim)) == 0);
      CHECK(board.read(r).find(fmt::format("(pid {}) was lost: its connection closed",
                                           pids[static_cast<size_t>(victim)])) != std::string::npos);
    }
    CHECK(monotonic_seconds() - start < 10);
  }
}

TEST_CASE("a rank that stands still is lost after the silence") {
  for (int victim : {0, 1}) {
    TestRun run(3);
    run.silence_seconds = 2;
    Board board(3);
    const auto pids = start_all(run, board);
    ::kill(pids[static_cast<size_t>(victim)], SIGSTOP);
    for (int r = 0; r < 3; ++r) {
      if (r == victim) continue;
      CHECK(wait_child(pids[static_cast<size_t>(r)], 30) == 7);
      INFO(board.read(r));
      CHECK(board.read(r).find(fmt::format("rank {} on ", victim)) == 0);
      CHECK(board.read(r).find("nothing heard of it for") != std::string::npos);
    }
    ::kill(pids[static_cast<size_t>(victim)], SIGKILL);
    wait_child(pids[static_cast<size_t>(victim)], 5);
  }
}

TEST_CASE("a callback that hangs does not keep a rank alive") {
  TestRun run(2);
  Board board(2);
  const pid_t stuck = start_rank(run, 0, board, true);
  const pid_t victim = start_rank(run, 1, board);
  const double deadline = monotonic_seconds() + 20;
  while (!(board.lines[0].formed && board.lines[1].formed) && monotonic_seconds() < deadline) ::usleep(1000);
  ::kill(victim, SIGKILL);
  CHECK(wait_child(stuck, 10) == ControlOptions::kExitLost);
  wait_child(victim, 5);
}

TEST_CASE("abort tells everyone the reason, from any rank") {
  for (int culprit : {0, 1}) {
    TestRun run(3);
    const auto errors = run.on_threads([&](ControlPlane& plane) {
      plane.barrier("start", 10);
      const std::string expected =
          fmt::format("{} ended: disk on fire", to_string(plane.hellos()[static_cast<size_t>(culprit)]));
      if (plane.rank() == culprit) {
        plane.abort("disk on fire");
        CHECK(plane.lost());
        return;
      }
      if (plane.rank() == 0) {
        CHECK_THROWS_WITH_AS(plane.barrier("never", 20), expected.c_str(), Error);
      } else {
        std::vector<std::byte> message;
        CHECK_FALSE(plane.next(message));
      }
      CHECK(plane.reason() == expected);
      if (plane.rank() == 0) plane.broadcast({});  // into the void, without waiting
    });
    for (const auto& error : errors) CHECK(error == "");
  }
}

TEST_CASE("fatal in one rank reaches the others through the hook") {
  TestRun run(2);
  Board board(2);
  const pid_t observer = start_rank(run, 0, board);
  const pid_t culprit = fork_child([&run] {
    static ControlPlane* plane_of_hook;
    auto plane = run.form(1);
    plane_of_hook = plane.get();
    set_fatal_hook([](std::string_view message) { plane_of_hook->abort(message); });
    plane->barrier("formed", 20);
    ::close(2);
    fatal("a planted bug");
    return 0;
  });
  CHECK(wait_child(observer, 10) == 7);
  CHECK(wait_child(culprit, 10) == 128 + SIGABRT);
  INFO(board.read(0));
  CHECK(board.read(0).find(fmt::format("(pid {}) ended: a planted bug", culprit)) != std::string::npos);
}

TEST_CASE("a rank that ends without leave() counts as lost, one that leaves does not") {
  TestRun run(3);
  const auto errors = run.on_threads([&](ControlPlane& plane) {
    plane.barrier("start", 10);
    if (plane.rank() == 2) return;  // the destructor closes the connection
    const double deadline = monotonic_seconds() + 10;
    while (!plane.lost() && monotonic_seconds() < deadline) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    CHECK(plane.reason() == fmt::format("{} was lost: its connection closed", to_string(plane.hellos()[2])));
  });
  for (const auto& error : errors) CHECK(error == "");

  TestRun clean(3);
  const auto none = clean.on_threads([&](ControlPlane& plane) {
    plane.barrier("start", 10);
    if (plane.rank() == 0) std::this_thread::sleep_for(std::chrono::milliseconds(300));  // the workers leave first
    plane.leave();
    CHECK_FALSE(plane.lost());
  });
  for (const auto& error : none) CHECK(error == "");
}
