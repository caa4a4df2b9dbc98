// SPDX-License-Identifier: Apache-2.0
#include "launch/old_keys.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>

#include "base/clock.h"
#include "cluster/folder.h"

using namespace sluice;

namespace {
constexpr double kDay = 86400;

void set_time(const std::filesystem::path& path, double seconds) {
  const timespec at{static_cast<time_t>(seconds), 0};
  const timespec times[2] = {at, at};
  REQUIRE(::utimensat(AT_FDCWD, path.c_str(), times, 0) == 0);
}

struct Home {
  TestFolder folder;
  const double now = wall_seconds();
  std::string queue;  // of squeue; "-" where it does not answer
  int asked = 0;

  // A run that began and whose record was last written so many days ago.
  Endpoint run(const char* id, EndpointState state, double began, double written, const char* job = nullptr) {
    Endpoint record;
    record.id = id, record.state = state, record.job_id = job == nullptr ? id : job, record.host = "n1";
    record.key_file = make_key(folder.path, id, false).string();
    record.start_time = now - began * kDay;
    set_time(record.key_file, record.start_time);
    keep(record, written);
    return record;
  }
  void keep(const Endpoint& record, double written) {
    write_endpoint(folder.path, record);
    set_time(endpoint_path(folder.path, record.id), now - written * kDay);
  }
  std::vector<std::string> sweep() {
    const CommandRunner squeue = [this](const std::vector<std::string>&, double) -> std::optional<CommandResult> {
      ++asked;
      if (queue == "-") return std::nullopt;
      return CommandResult{0, queue};
    };
    auto removed = remove_old_keys(folder.path, squeue, {"login1", [](int64_t) { return false; }, now});
    std::ranges::sort(removed);
    return removed;
  }
  bool has(const char* id) const { return std::filesystem::exists(key_path(folder.path, id)); }
};
using Names = std::vector<std::string>;
}  // namespace

TEST_CASE("keys of jobs that stopped more than a day ago are removed, once") {
  Home home;
  home.run("148", EndpointState::kStopped, 3, 2);
  home.run("149", EndpointState::kStopped, 3, 0.5);
  home.run("local-7", EndpointState::kStopped, 3, 2, "");
  CHECK(home.sweep() == Names{"148", "local-7"});
  CHECK_FALSE(home.has("148"));
  CHECK(home.has("149"));
  CHECK(home.sweep() == Names{});
  CHECK(home.asked == 1);  // nothing was left to ask about
}

TEST_CASE("a job that waits in the queue or runs comes back to its key, and one that nobody can tell of keeps it") {
  Home home;
  home.run("148", EndpointState::kStopped, 3, 2);
  home.run("149", EndpointState::kStopped, 3, 2);
  home.queue = "148|PENDING|None|1:00:00||sluice|N/A|148\n149|RUNNING|None|1:00:00|n1|sluice|N/A|149\n";
  CHECK(home.sweep() == Names{});
  home.queue = "-";
  CHECK(home.sweep() == Names{});
  CHECK(home.has("148"));
  CHECK(home.has("149"));
}

TEST_CASE("a run that left no word keeps its key until its time limit has long passed") {
  Home home;
  home.run("148", EndpointState::kReady, 30, 30);          // no limit
  home.run("local-7", EndpointState::kReady, 30, 30, "");  // its process may be another host's
  Endpoint limited = home.run("149", EndpointState::kReady, 9, 9);
  limited.end_time = home.now - 0.5 * kDay;
  home.keep(limited, 9);
  CHECK(home.sweep() == Names{});
  limited.end_time = home.now - 2 * kDay;
  home.keep(limited, 9);
  CHECK(home.sweep() == Names{"149"});
}

TEST_CASE("a service's key, and one that another run of the same name has made since, stay") {
  Home home;
  Endpoint service = home.run("148", EndpointState::kStopped, 3, 2);
  service.key_file = make_key(home.folder.path, "demo", true).string();
  home.keep(service, 2);
  home.run("local-7", EndpointState::kStopped, 5, 2, "");
  set_time(key_path(home.folder.path, "local-7"), home.now - 3 * kDay);
  CHECK(home.sweep() == Names{});
  CHECK(home.has("demo"));
  CHECK(home.has("local-7"));
}
