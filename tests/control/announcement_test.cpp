// SPDX-License-Identifier: Apache-2.0
#include "control/announcement.h"

#include <doctest/doctest.h>
#include <sys/stat.h>

#include <chrono>
#include <filesystem>

#include "base/file.h"
#include "control/ranks.h"

using namespace sluice;

TEST_CASE("an announcement is private, whole and read back") {
  TestRun run(2);
  const auto path = announcement_path(run.home, "148.0 a/b");
  CHECK(path.filename() == "run-148.0_20a_2fb");
  CHECK_FALSE(read_announcement(path).has_value());
  write_announcement(path, {"n1", "boot", 20148, {"10.77.0.1", "fd00::1"}});
  struct stat info {};
  REQUIRE(::stat(path.c_str(), &info) == 0);
  CHECK((info.st_mode & 0777) == 0600);
  const auto got = read_announcement(path);
  REQUIRE(got.has_value());
  CHECK(got->host == "n1");
  CHECK(got->boot_id == "boot");
  CHECK(got->port == 20148);
  CHECK(got->addresses == std::vector<std::string>{"10.77.0.1", "fd00::1"});
}

TEST_CASE("a file that is no announcement is passed over") {
  TestRun run(2);
  const auto path = announcement_path(run.home, "x");
  write_announcement(path, {"n1", "", 1, {}});
  for (const char* text : {"", "sluice-rendezvous", "sluice-rendezvous 2\nport 5\n", "sluice-rendezvous 1\nhost x\n",
                           "sluice-rendezvous 1\nport 70000\n", "sluice-rendezvous 1\nport x\n"}) {
    replace_file(path, text, 0600);
    CHECK_FALSE(read_announcement(path).has_value());
  }
}

TEST_CASE("what a killed run has announced goes with a later announcement, a day after") {
  TestRun run(2);
  const auto old = announcement_path(run.home, "old"), fresh = announcement_path(run.home, "fresh");
  write_announcement(old, {"n1", "", 1, {}});
  write_announcement(fresh, {"n1", "", 1, {}});
  const auto days = [](int n) { return std::filesystem::file_time_type::clock::now() - std::chrono::hours(24 * n); };
  std::filesystem::last_write_time(old, days(2));
  write_announcement(announcement_path(run.home, "x"), {"n1", "", 1, {}});
  CHECK_FALSE(std::filesystem::exists(old));
  CHECK(std::filesystem::exists(fresh));
}
