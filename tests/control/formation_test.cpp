// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <future>
#include <thread>

#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "cluster/port.h"
#include "control/announcement.h"
#include "control/ranks.h"

using namespace sluice;

namespace {
// Forms the given hellos, each on a thread; the error of each, empty where it formed.
struct Member {
  TestRun* run;
  Hello hello;
};
std::vector<std::string> form_all(const std::vector<Member>& members) {
  std::vector<std::string> errors(members.size());
  std::vector<std::thread> threads;
  for (size_t i = 0; i < members.size(); ++i) {
    threads.emplace_back([&, i] {
      try {
        Launch launch = members[i].run->launch(members[i].hello.place.rank);
        launch.world = members[i].hello.world;
        auto plane = ControlPlane::form(members[i].run->options(), launch, members[i].hello);
        plane->leave();
      } catch (const Error& error) {
        errors[i] = error.what();
      }
    });
  }
  for (auto& thread : threads) thread.join();
  return errors;
}
bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }
}  // namespace

TEST_CASE("all ranks form and know each other") {
  for (int world : {2, 5}) {
    TestRun run(world);
    for (const auto& error : run.on_threads([&](ControlPlane& plane) {
           REQUIRE(plane.size() == world);
           for (int r = 0; r < world; ++r) {
             CHECK(plane.hellos()[static_cast<size_t>(r)].place.rank == r);
             CHECK(plane.hellos()[static_cast<size_t>(r)].build == build_id());
           }
           plane.leave();
         }))
      CHECK(error == "");
    CHECK(std::filesystem::is_empty(run.home / "rendezvous"));
  }
}

TEST_CASE("a world of one touches neither network nor files") {
  TestRun run(1);
  auto plane = run.form(0);
  CHECK(plane->size() == 1);
  plane->broadcast({});
  CHECK(plane->all_gather("x", "mine", 1) == std::vector<std::string>{"mine"});
  plane->leave();
  CHECK_FALSE(std::filesystem::exists(run.home));
}

TEST_CASE("ranks find rank 0 on another port than the first, with nobody to ask but the announcement") {
  TestRun run(2);
  // Other programs hold the whole walk that is tried without an announcement.
  std::vector<Listener> taken;
  const auto ports = rendezvous_ports(std::nullopt, run.launch(0).run_id, read_port_limits());
  for (size_t i = 0; i < 10; ++i) {
    try {
      taken.push_back(listen_first("0.0.0.0", {ports[i]}, 8, "test"));
    } catch (const Error&) {  // others hold it already
    }
  }
  for (const auto& error : run.on_threads([](ControlPlane& plane) { plane.leave(); })) CHECK(error == "");
  for (const auto& listener : taken) ::close(listener.fd);
}

TEST_CASE("ranks find rank 0 by the port rule alone") {
  TestRun run(2);
  auto leader = std::async(std::launch::async, [&] { return run.form(0); });
  // The worker's view of the announcement folder is a minute old.
  const auto path = announcement_path(run.home, run.launch(0).run_id + ".0");
  while (!std::filesystem::exists(path)) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  std::filesystem::remove(path);
  auto worker = run.form(1);
  auto first = leader.get();
  std::thread other([&] { worker->leave(); });
  first->leave();
  other.join();
  CHECK_FALSE(worker->lost());
}

TEST_CASE("--rendezvous names the place") {
  TestRun run(2);
  const Listener free = listen_first("127.0.0.1", {0}, 1, "test");
  ::close(free.fd);
  std::vector<std::thread> ranks;
  std::vector<std::string> errors(2);
  for (int r = 0; r < 2; ++r) {
    ranks.emplace_back([&, r] {
      try {
        auto options = run.options();
        options.rendezvous = fmt::format("localhost:{}", free.port);
        ControlPlane::form(options, run.launch(r), run.hello(r))->leave();
      } catch (const Error& error) {
        errors[static_cast<size_t>(r)] = error.what();
      }
    });
  }
  for (auto& rank : ranks) rank.join();
  for (const auto& error : errors) CHECK(error == "");
  auto options = run.options();
  options.rendezvous = "nonsense";
  CHECK_THROWS_WITH_AS(ControlPlane::form(options, run.launch(1), run.hello(1)),
                       "--rendezvous: expected HOST:PORT, found 'nonsense'", Error);
}

TEST_CASE("a missing rank is named with its host, to rank 0 and to those who came") {
  TestRun run(4);
  run.formation_seconds = 3;
  std::vector<std::string> errors(2);
  std::vector<std::thread> ranks;
  const double start = monotonic_seconds();
  for (int r = 0; r < 2; ++r) {
    ranks.emplace_back([&, r] {
      Launch launch = run.launch(r);
      Hello hello = run.hello(r);
      hello.place.host = "n1.cluster";
      launch.hosts = {"n1", "n2"};
      launch.tasks_per_host = {2, 2};
      launch.node_name = "n1";
      try {
        ControlPlane::form(run.options(), launch, hello);
      } catch (const Error& error) {
        errors[static_cast<size_t>(r)] = error.what();
      }
    });
  }
  for (auto& rank : ranks) rank.join();
  CHECK(monotonic_seconds() - start < 10);
  for (const auto& error : errors) {
    INFO(error);
    CHECK(contains(error, "waited 3 s for 4 ranks, 2 came; missing: ranks 2, 3, expected on n2 (0 of 2 came)"));
  }
}

TEST_CASE("a rank that finds no rank 0 says where it looked") {
  TestRun run(2);
  run.formation_seconds = 0.2;
  const auto errors = form_all({{&run, run.hello(1)}});
  INFO(errors[0]);
  CHECK(contains(errors[0], "found no rank 0 within 0.2 s: tried this host from port"));
  CHECK(contains(errors[0], "never seen"));
  CHECK(contains(errors[0], "--rendezvous HOST:PORT"));
}

TEST_CASE("two builds are not mixed") {
  TestRun run(3);
  auto other = run.hello(1);
  other.build = "feed";
  const auto errors = form_all({{&run, run.hello(0)}, {&run, other}});
  for (const auto& error : errors) {
    INFO(error);
    CHECK(contains(error, "two builds are mixed: rank 1 on "));
    CHECK(contains(error, "runs build feed, rank 0 on "));
  }
}

TEST_CASE("two processes with one rank are both named") {
  TestRun run(3);
  auto twin = run.hello(1);
  twin.pid = 424242;
  const auto errors = form_all({{&run, run.hello(0)}, {&run, run.hello(1)}, {&run, twin}});
  INFO(errors[0]);
  CHECK(contains(errors[0], "two processes claim rank 1: rank 1 on "));
  CHECK(contains(errors[0], "(pid 424242)"));
}

TEST_CASE("ranks of different worlds do not mix") {
  TestRun run(3);
  auto stray = run.hello(1);
  stray.world = 2;
  const auto errors = form_all({{&run, run.hello(0)}, {&run, stray}});
  INFO(errors[0]);
  CHECK(contains(errors[0], "was started in a world of 2 ranks, rank 0 on "));
  CHECK(contains(errors[1], "in a world of 3"));
}

TEST_CASE("another user secret keeps a rank out and is named on both sides") {
  TestRun run(2), elsewhere(2);
  run.formation_seconds = 4;
  // The stray rank sees rank 0's run but holds its own secret, as with a SLUICE_HOME on a local disk.
  std::vector<std::string> errors(2);
  std::thread leader([&] {
    try {
      run.form(0);
    } catch (const Error& error) {
      errors[0] = error.what();
    }
  });
  std::thread stray([&] {
    auto options = run.options();
    options.home = elsewhere.home;
    try {
      ControlPlane::form(options, run.launch(1), run.hello(1));
    } catch (const Error& error) {
      errors[1] = error.what();
    }
  });
  leader.join();
  stray.join();
  INFO(errors[0]);
  INFO(errors[1]);
  CHECK(contains(errors[0], "turned away: its user secret is another one"));
  CHECK(contains(errors[1], "it holds another user secret than"));
}

TEST_CASE("two runs of one user that meet on a port do not mix") {
  TestRun first(2), second(2);
  second.home = first.home;  // one secret
  // The second run's port rule leads to the first run's rank 0: only the run in the handshake tells them apart.
  auto leader = std::async(std::launch::async, [&] { return first.form(0); });
  const auto path = announcement_path(first.home, first.launch(0).run_id + ".0");
  while (!std::filesystem::exists(path)) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  std::string error;
  auto stray = second.options();
  stray.rendezvous = fmt::format("127.0.0.1:{}", read_announcement(path)->port);
  stray.formation_seconds = 1.5;
  try {
    ControlPlane::form(stray, second.launch(1), second.hello(1));
  } catch (const Error& e) {
    error = e.what();
  }
  INFO(error);
  CHECK(contains(error, "it belongs to another run of yours"));
  auto worker = first.form(1);
  auto plane = leader.get();
  std::thread other([&] { worker->leave(); });
  plane->leave();
  other.join();
}

TEST_CASE("a rank that dies while the others gather is named before the deadline") {
  TestRun run(3);
  run.formation_seconds = 100;
  std::string error;
  std::atomic<bool> over{false};
  pid_t victim = 0;
  std::thread leader;
  // On a busy machine a victim may die before it has come: then the next one lives longer.
  for (int life = 700; !over && life < 20000; life *= 2) {
    victim = fork_child([&] {
      run.form(1);
      return 0;
    });
    if (!leader.joinable())
      leader = std::thread([&] {
        try {
          run.form(0);
        } catch (const Error& e) {
          error = e.what();
        }
        over = true;
      });
    std::this_thread::sleep_for(std::chrono::milliseconds(life));
    ::kill(victim, SIGKILL);
    CHECK(wait_child(victim, 5) == 128 + SIGKILL);
    for (int i = 0; i < 1000 && !over; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  CHECK(over);
  leader.join();
  INFO(error);
  CHECK(contains(error, fmt::format("(pid {}) was lost while the ranks were gathering", victim)));
}
