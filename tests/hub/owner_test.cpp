// SPDX-License-Identifier: Apache-2.0
#include "hub/owner.h"

#include <doctest/doctest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>

#include "base/clock.h"
#include "base/error.h"

using namespace sluice;
namespace fs = std::filesystem;

namespace {
struct Folder {
  fs::path path;
  Folder() {
    char name[] = "/tmp/sluice-owner-XXXXXX";
    path = ::mkdtemp(name);
  }
  ~Folder() { fs::remove_all(path); }
};
const auto kNobody = [](const std::string&) {};
const auto kGoOn = [] { return false; };
}  // namespace

TEST_CASE("an owner leaves no file behind") {
  const Folder folder;
  {
    RepoOwner owner(folder.path, 60, kNobody, kGoOn);
    CHECK(fs::exists(folder.path / "owner"));
    CHECK_FALSE(owner.waited());
  }
  CHECK(fs::is_empty(folder.path));
}

TEST_CASE("a dead process of this host is replaced at once") {
  const Folder folder;
  const pid_t child = ::fork();
  if (child == 0) {
    new RepoOwner(folder.path, 60, kNobody, kGoOn);
    ::_exit(0);
  }
  ::waitpid(child, nullptr, 0);
  const double begun = monotonic_seconds();
  RepoOwner owner(folder.path, 60, kNobody, kGoOn);
  CHECK(monotonic_seconds() - begun < 10);
}

TEST_CASE("an owner elsewhere that no longer touches its file is replaced after the time") {
  const Folder folder;
  std::ofstream(folder.path / "owner") << "elsewhere boot 12 99\n";
  std::string who;
  RepoOwner owner(
      folder.path, 1, [&](const std::string& name) { who = name; }, kGoOn);
  CHECK(who == "process 12 on elsewhere, job 99");
  CHECK(owner.waited());
}

TEST_CASE("waiting can be stopped") {
  const Folder folder;
  std::ofstream(folder.path / "owner") << "elsewhere boot 12 99\n";
  CHECK_THROWS_AS(RepoOwner(folder.path, 60, kNobody, [] { return true; }), Error);
}
