// SPDX-License-Identifier: Apache-2.0
#include "cluster/signals.h"

#include <doctest/doctest.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <utility>
#include <vector>

#include "cluster/devices.h"

using namespace sluice;

TEST_CASE("signals reach the callback, counted, on a thread of its own") {
  sigset_t old;
  pthread_sigmask(SIG_SETMASK, nullptr, &old);
  block_signals();
  {
    std::mutex mutex;
    std::condition_variable changed;
    std::vector<std::pair<int, int>> seen;
    SignalWatch watch([&](int signal, int count) {
      const std::lock_guard lock(mutex);
      seen.emplace_back(signal, count);
      changed.notify_all();
    });
    for (const int signal : {SIGTERM, SIGUSR1, SIGTERM}) {
      std::unique_lock lock(mutex);
      const size_t before = seen.size();
      ::kill(::getpid(), signal);
      REQUIRE(changed.wait_for(lock, std::chrono::seconds(20), [&] { return seen.size() == before + 1; }));
    }
    CHECK(seen == std::vector<std::pair<int, int>>{{SIGTERM, 1}, {SIGUSR1, 2}, {SIGTERM, 3}});
  }
  pthread_sigmask(SIG_SETMASK, &old, nullptr);
}

TEST_CASE("a watch without signals ends at once") {
  SignalWatch watch([](int, int) { FAIL("no signal was sent"); });
}

TEST_CASE("signals have names") {
  CHECK(std::string(signal_name(SIGTERM)) == "TERM");
  CHECK(std::string(signal_name(SIGUSR1)) == "USR1");
}

TEST_CASE("the host says who it is and how many CPUs this process may use") {
  const HostFacts facts = read_host_facts();
  char name[256] = {};
  ::gethostname(name, sizeof name - 1);
  CHECK(facts.host == name);
  CHECK(facts.boot_id.size() == 36);
  cpu_set_t old, one;
  REQUIRE(::sched_getaffinity(0, sizeof old, &old) == 0);
  CHECK(facts.cpus == CPU_COUNT(&old));
  CPU_ZERO(&one);
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &old)) continue;
    CPU_SET(cpu, &one);
    break;
  }
  REQUIRE(::sched_setaffinity(0, sizeof one, &one) == 0);
  CHECK(read_host_facts().cpus == 1);
  ::sched_setaffinity(0, sizeof old, &old);
}
