// SPDX-License-Identifier: Apache-2.0
#include "cluster/command.h"

#include <doctest/doctest.h>
#include <signal.h>

#include <cstdlib>

#include "base/clock.h"

using namespace sluice;

TEST_CASE("a command's output and exit code come back") {
  const auto result = run_command({"sh", "-c", "echo out; echo err >&2; exit 3"}, 10);
  REQUIRE(result);
  CHECK(result->output == "out\n");
  CHECK(result->exit_code == 3);
}

TEST_CASE("a missing program is nothing, not an error") { CHECK_FALSE(run_command({"sluice-no-such-program"}, 10)); }

TEST_CASE("a command that outlives its deadline is killed") {
  const double start = monotonic_seconds();
  CHECK_FALSE(run_command({"sleep", "60"}, 0.2));
  CHECK_FALSE(run_command({"sh", "-c", "exec >&-; sleep 60"}, 0.2));
  CHECK(monotonic_seconds() - start < 20);
}

TEST_CASE("a child hears TERM although this thread blocks it") {
  sigset_t set, old;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &set, &old);
  const auto result = run_command({"sh", "-c", "kill -TERM $$; echo alive"}, 10);
  pthread_sigmask(SIG_SETMASK, &old, nullptr);
  REQUIRE(result);
  CHECK(result->exit_code == 128 + SIGTERM);
  CHECK(result->output.empty());
}

TEST_CASE("a child inherits the job and not the rank") {
  ::setenv("PMIX_RANK", "0", 1);
  ::setenv("SLURM_JOB_ID", "5", 1);
  const auto result = run_command({"sh", "-c", "echo \"[$PMIX_RANK][$SLURM_JOB_ID]\""}, 10);
  ::unsetenv("PMIX_RANK");
  ::unsetenv("SLURM_JOB_ID");
  REQUIRE(result);
  CHECK(result->output == "[][5]\n");
}
