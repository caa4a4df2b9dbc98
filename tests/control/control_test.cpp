// SPDX-License-Identifier: Apache-2.0
#include "control/control.h"

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <thread>

#include "base/clock.h"
#include "base/error.h"
#include "control/ranks.h"

using namespace sluice;

namespace {
// Message n has a length and content that only n gives.
void make_message(uint32_t n, std::vector<std::byte>& out) {
  out.resize(4 + (n * 2654435761u >> 16) % (n % 500 == 0 ? 400000 : 4000));
  std::memcpy(out.data(), &n, 4);
  for (size_t i = 4; i < out.size(); ++i) out[i] = static_cast<std::byte>(n * 31 + i * 7);
}
}  // namespace

TEST_CASE("ten thousand messages arrive in order and unchanged") {
  TestRun run(3);
  constexpr uint32_t kMessages = 10000;
  const auto errors = run.on_threads([&](ControlPlane& plane) {
    std::vector<std::byte> message, expected;
    if (plane.rank() == 0) {
      for (uint32_t n = 0; n < kMessages; ++n) {
        make_message(n, message);
        plane.broadcast(message);
      }
    } else {
      uint32_t wrong = 0, n = 0;
      for (; plane.next(message); ++n) {
        make_message(n, expected);
        wrong += message != expected;
        if (n == 3000 && plane.rank() == 2) std::this_thread::sleep_for(std::chrono::milliseconds(300));
      }
      CHECK(n == kMessages);
      CHECK(wrong == 0);
    }
    plane.leave();
    CHECK_FALSE(plane.lost());
  });
  for (const auto& error : errors) CHECK(error == "");
}

TEST_CASE("a slow rank holds rank 0 back, and the others do not take that for a loss") {
  TestRun run(3);
  run.silence_seconds = 1.5;
  std::atomic<int> sent{0};
  const auto errors = run.on_threads([&](ControlPlane& plane) {
    std::vector<std::byte> message(100000);
    if (plane.rank() == 0) {
      for (int n = 0; n < 400; ++n, ++sent) plane.broadcast(message);
    } else {
      if (plane.rank() == 2) {
        std::this_thread::sleep_for(std::chrono::milliseconds(4000));
        CHECK(sent < 400);
      }
      int got = 0;
      while (plane.next(message)) ++got;
      CHECK(got == 400);
    }
    plane.leave();
    CHECK_FALSE(plane.lost());
  });
  for (const auto& error : errors) CHECK(error == "");
}

TEST_CASE("exchanges give everyone everything by rank") {
  TestRun run(4);
  const auto errors = run.on_threads([&](ControlPlane& plane) {
    for (int round = 0; round < 50; ++round) {
      const auto got = plane.all_gather("ids", fmt::format("{}-{}", plane.rank(), round), 10);
      REQUIRE(got.size() == 4);
      for (int r = 0; r < 4; ++r) CHECK(got[static_cast<size_t>(r)] == fmt::format("{}-{}", r, round));
    }
    const auto large = plane.all_gather("large", std::string(1 << 20, static_cast<char>('a' + plane.rank())), 10);
    CHECK((large[3] == std::string(1 << 20, 'd')));
    plane.barrier("end", 10);
    plane.leave();
  });
  for (const auto& error : errors) CHECK(error == "");
}

TEST_CASE("a barrier names who has not come, to everyone") {
  TestRun run(3);
  const auto errors = run.on_threads([&](ControlPlane& plane) {
    plane.barrier("start", 20);
    if (plane.rank() == 2) std::this_thread::sleep_for(std::chrono::milliseconds(3000));
    std::string failure;
    try {
      plane.barrier("weights loaded", 1.5);
    } catch (const Error& error) {
      failure = error.what();
    }
    CHECK(failure == fmt::format("weights loaded: waited 1.5 s; not there: {}", to_string(plane.hellos()[2])));
    plane.barrier("after", 10);  // the next exchange is not confused by it
    plane.leave();
  });
  for (const auto& error : errors) CHECK(error == "");
}

TEST_CASE("ranks at different places of the program are told so") {
  TestRun run(2);
  const auto errors = run.on_threads([&](ControlPlane& plane) {
    CHECK_THROWS_WITH_AS(plane.barrier(plane.rank() == 0 ? "here" : "there", 10),
                         fmt::format("here: rank 0 is there, but {} at 'there'", to_string(plane.hellos()[1])).c_str(),
                         Error);
    plane.leave();
  });
  for (const auto& error : errors) CHECK(error == "");
}

TEST_CASE("waiting ranks use no CPU") {
  TestRun run(2);
  // Both ranks as processes, so that nothing of the test counts.
  std::vector<pid_t> ranks;
  int measured[2];  // a pipe that is closed when rank 0 may leave
  REQUIRE(::pipe(measured) == 0);
  for (int r = 0; r < 2; ++r) {
    ranks.push_back(fork_child([&] {
      ::close(measured[1]);
      auto plane = run.form(r);
      std::vector<std::byte> message;
      if (r == 0) {
        char none;
        while (::read(measured[0], &none, 1) > 0) {
        }
      } else {
        while (plane->next(message)) {
        }
      }
      plane->leave();
      return plane->lost() ? 1 : 0;
    }));
  }
  std::this_thread::sleep_for(std::chrono::seconds(1));
  double most = 1;
  for (int i = 0; i < 5 && most > 0.05; ++i) {  // the first time they may still be forming
    std::vector<double> before;
    for (const pid_t pid : ranks) before.push_back(cpu_seconds(pid));
    std::this_thread::sleep_for(std::chrono::seconds(2));
    most = 0;
    for (size_t r = 0; r < 2; ++r) most = std::max(most, cpu_seconds(ranks[r]) - before[r]);
  }
  CHECK(most <= 0.05);  // 0.02 of a core over two seconds, plus one tick of the clock
  ::close(measured[1]);
  for (const pid_t pid : ranks) CHECK(wait_child(pid, 20) == 0);
}
