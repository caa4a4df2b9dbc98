// SPDX-License-Identifier: Apache-2.0
#include "cluster/walltime.h"

#include <doctest/doctest.h>

using namespace sluice;

namespace {
// A squeue that answers what it is told and counts how often it was asked.
struct FakeSqueue {
  std::optional<CommandResult> answer;
  int asked = 0;
  std::vector<std::string> arguments;
  CommandRunner runner() {
    return [this](const std::vector<std::string>& a, double) {
      ++asked;
      arguments = a;
      return answer;
    };
  }
};
}  // namespace

TEST_CASE("squeue's time left is read in all its forms") {
  CHECK(parse_time_left("1-02:03:04\n") == 93784);
  CHECK(parse_time_left("02:03:04") == 7384);
  CHECK(parse_time_left("  4:05 ") == 245);
  CHECK(parse_time_left("0:00") == 0);
  for (const char* text : {"UNLIMITED", "INVALID", "NOT_SET", "", "5", "1-2:3", "a:b", "-1:00", "1:2:3:4", "1:"}) {
    CAPTURE(text);
    CHECK_FALSE(parse_time_left(text));
  }
}

TEST_CASE("time left is shown in squeue's form") {
  CHECK(format_time_left(365 * 86400.0 - 8) == "364-23:59:52");
  CHECK(format_time_left(93784) == "1-02:03:04");
  CHECK(format_time_left(86399.2) == "1-00:00:00");
  CHECK(format_time_left(7384) == "2:03:04");
  CHECK(format_time_left(245) == "4:05");
  CHECK(format_time_left(-3) == "0:00");
  for (const int64_t seconds : {1, 59, 60, 3599, 3600, 86399, 86400, 31535992})
    CHECK(parse_time_left(format_time_left(static_cast<double>(seconds))) == seconds);
}

TEST_CASE("outside Slurm nobody is asked") {
  FakeSqueue squeue;
  Walltime walltime(map_environment({}), squeue.runner(), [] { return 100.0; });
  CHECK_FALSE(walltime.seconds_left());
  CHECK(squeue.asked == 0);
}

TEST_CASE("SLURM_JOB_END_TIME is believed without asking") {
  FakeSqueue squeue;
  Walltime walltime(map_environment({{"SLURM_JOB_ID", "5"}, {"SLURM_JOB_END_TIME", "1600"}}), squeue.runner(),
                    [] { return 1000.0; });
  CHECK(walltime.seconds_left() == 600);
  CHECK(std::string(walltime.origin()) == "SLURM_JOB_END_TIME");
  CHECK(squeue.asked == 0);
}

TEST_CASE("an end time far beyond any limit is no limit") {
  Walltime walltime(map_environment({{"SLURM_JOB_ID", "5"}, {"SLURM_JOB_END_TIME", "900000000"}}),
                    FakeSqueue().runner(), [] { return 1000.0; });
  CHECK_FALSE(walltime.end_time());
}

TEST_CASE("squeue is asked at most every five minutes") {
  double now = 1000;
  FakeSqueue squeue{.answer = CommandResult{0, "10:00\n"}, .asked = 0, .arguments = {}};
  Walltime walltime(map_environment({{"SLURM_JOB_ID", "5"}}), squeue.runner(), [&] { return now; });
  CHECK(walltime.end_time() == 1600);
  CHECK(squeue.arguments == std::vector<std::string>{"squeue", "-h", "-j", "5", "-o", "%L"});
  FakeSqueue of_task{.answer = CommandResult{0, "10:00\n"}, .asked = 0, .arguments = {}};
  Walltime task(map_environment({{"SLURM_JOB_ID", "5"}, {"SLURM_ARRAY_JOB_ID", "5"}, {"SLURM_ARRAY_TASK_ID", "3"}}),
                of_task.runner(), [&] { return now; });
  CHECK(task.end_time() == 1600);
  CHECK(of_task.arguments[3] == "5_3");  // 5 would be the whole array
  now = 1299;
  CHECK(walltime.seconds_left() == 301);
  CHECK(squeue.asked == 1);
  now = 1301;
  squeue.answer = CommandResult{0, "1:00:00\n"};  // the limit was extended
  CHECK(walltime.seconds_left() == 3600);
  CHECK(squeue.asked == 2);
}

TEST_CASE("a failing squeue leaves the last answer standing and is not asked at once again") {
  double now = 1000;
  FakeSqueue squeue{.answer = std::nullopt, .asked = 0, .arguments = {}};
  Walltime walltime(map_environment({{"SLURM_JOB_ID", "5"}}), squeue.runner(), [&] { return now; });
  CHECK_FALSE(walltime.end_time());
  CHECK_FALSE(walltime.end_time());
  CHECK(squeue.asked == 1);
  CHECK(std::string(walltime.origin()) == "unknown");
  now = 2000;
  squeue.answer = CommandResult{0, "10:00"};
  CHECK(walltime.end_time() == 2600);
  now = 2400;
  squeue.answer = CommandResult{1, "slurm_load_jobs error"};
  CHECK(walltime.end_time() == 2600);
}

TEST_CASE("an unlimited job has no end") {
  FakeSqueue squeue{.answer = CommandResult{0, "UNLIMITED\n"}, .asked = 0, .arguments = {}};
  Walltime walltime(map_environment({{"SLURM_JOB_ID", "5"}}), squeue.runner(), [] { return 1000.0; });
  CHECK_FALSE(walltime.end_time());
  CHECK(std::string(walltime.origin()) == "squeue");
}
