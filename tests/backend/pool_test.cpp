// SPDX-License-Identifier: Apache-2.0
#include "backend/cpu/pool.h"

#include <doctest/doctest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <string>

#include "base/error.h"

namespace sluice {
namespace {

TEST_CASE("every item is done exactly once, round after round") {
  for (const int threads : {1, 2, 3, 8}) {
    Pool pool(threads, threads < 3);
    for (int round = 0; round < 300; ++round) {
      const int64_t n = round % 50, chunk = 1 + round % 7;
      std::vector<std::atomic<int>> done(static_cast<size_t>(n));
      pool.split(n, chunk, [&](int64_t begin, int64_t end, int thread) {
        CHECK((thread >= 0 && thread < threads));
        for (int64_t i = begin; i < end; ++i) ++done[static_cast<size_t>(i)];
      });
      CHECK(std::all_of(done.begin(), done.end(), [](const std::atomic<int>& d) { return d == 1; }));
      std::vector<std::atomic<int>> met(static_cast<size_t>(threads));
      pool.run([&](int thread) { ++met[static_cast<size_t>(thread)]; });
      CHECK(std::all_of(met.begin(), met.end(), [](const std::atomic<int>& d) { return d == 1; }));
    }
  }
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // which take more address space than there is
TEST_CASE("threads that the system does not give are said, and those made end") {
  const pid_t child = ::fork();
  if (child == 0) {
    const rlimit limit{size_t{2} << 30, size_t{2} << 30};  // their stacks do not fit
    int status = ::setrlimit(RLIMIT_AS, &limit) == 0 ? 1 : 9;
    try {
      const Pool pool(4000, false);
    } catch (const Error& error) {
      status = std::string(error.what()).find("of 4000 compute threads") == std::string::npos ? 2 : 0;
    }
    ::_exit(status);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
}
#endif

double cpu_seconds() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) * 1e-6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

TEST_CASE("an idle pool uses no processor time") {
  Pool pool(4, true);
  pool.run([](int) {});
  double least = 1;  // the threads fall asleep when the machine lets them
  for (int i = 0; i < 10 && least >= 0.02 * 0.5; ++i) {
    const double before = cpu_seconds();
    std::this_thread::sleep_for(std::chrono::milliseconds(500));
    least = std::min(least, cpu_seconds() - before);
  }
  CHECK(least < 0.02 * 0.5);
}

}  // namespace
}  // namespace sluice
