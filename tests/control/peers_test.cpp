// SPDX-License-Identifier: Apache-2.0
#include "control/peers.h"

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "base/clock.h"
#include "control/ranks.h"

using namespace sluice;

TEST_CASE("every two ranks get one connection of their own") {
  TestRun run(4);
  const auto errors = run.on_threads([&](ControlPlane& plane) {
    const std::vector<Socket> peers = plane.connect_peers(20);
    REQUIRE(peers.size() == 4);
    for (int r = 0; r < 4; ++r) CHECK(static_cast<bool>(peers[static_cast<size_t>(r)]) == (r != plane.rank()));
    const double deadline = monotonic_seconds() + 10;
    for (int r = 0; r < 4; ++r)
      if (r != plane.rank())
        CHECK(write_all(peers[static_cast<size_t>(r)].fd(), fmt::format("{}>{}", plane.rank(), r), deadline));
    for (int r = 0; r < 4; ++r) {
      char text[3];
      if (r == plane.rank()) continue;
      CHECK(read_exactly(peers[static_cast<size_t>(r)].fd(), text, sizeof text, deadline));
      CHECK(std::string_view(text, 3) == fmt::format("{}>{}", r, plane.rank()));
    }
    plane.barrier("the end", 10);
    plane.leave();
  });
  for (const auto& error : errors) CHECK(error == "");
}

// A stranger on every port of the walk before and while the ranks look for each other: what claims to be rank 1 without
// the secret is not taken for it, and one who listens in rank 0's place is not joined.
TEST_CASE("strangers who call or answer in a rank's name are not taken for it") {
  TestRun run(2);
  std::atomic<bool> over{false};
  std::atomic<int> refused{0};
  std::vector<std::thread> strangers;
  for (int i = 0; i < 6; ++i)
    strangers.emplace_back([&, port = static_cast<uint16_t>(run.first_port() + i)] {
      while (!over) {
        int error = 0;
        Socket socket = connect_to(resolve("127.0.0.1", port).front(), monotonic_seconds() + 0.2, error);
        if (!socket) {
          std::this_thread::sleep_for(std::chrono::milliseconds(1));
          continue;
        }
        std::string call("SLUICEPR");
        for (const char c : {1, 1, 0})  // version, from, to
          call += std::string{c, 0, 0, 0};
        call += std::string(32, 'n');
        char answer[64];
        const double deadline = monotonic_seconds() + 1;
        if (!write_all(socket.fd(), call, deadline) || !read_exactly(socket.fd(), answer, sizeof answer, deadline))
          continue;
        write_all(socket.fd(), {answer + 32, 32}, deadline);  // its own proof, thrown back
      }
    });
  const auto errors = run.on_threads([&](ControlPlane& plane) {
    const std::vector<Socket> peers = plane.connect_peers(20);
    const double deadline = monotonic_seconds() + 10;
    char byte = 0;
    const int other = peers[static_cast<size_t>(1 - plane.rank())].fd();
    CHECK(write_all(other, std::string(1, static_cast<char>('a' + plane.rank())), deadline));
    CHECK(read_exactly(other, &byte, 1, deadline));
    CHECK(byte == 'a' + 1 - plane.rank());
    plane.barrier("the end", 10);
    plane.leave();
  });
  over = true;
  for (std::thread& stranger : strangers) stranger.join();
  for (const auto& error : errors) CHECK(error == "");
}

TEST_CASE("a rank that is not called says so on every rank, with its name") {
  TestRun run(2);
  const auto errors = run.on_threads([&](ControlPlane& plane) {
    if (plane.rank() == 1) {
      // It takes part in the exchanges and dials nobody.
      plane.all_gather("exchanging addresses", std::string(4, '\0'), 5);
      plane.all_gather("connecting the ranks", "", 30);
      plane.leave();
      return;
    }
    plane.connect_peers(1);
  });
  CHECK(errors[0].find("rank 0 on") == 0);
  CHECK(errors[0].find("was not called by rank 1 on") != std::string::npos);
}
