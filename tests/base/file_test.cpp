// SPDX-License-Identifier: Apache-2.0
#include "base/file.h"

#include <doctest/doctest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <vector>

#include "base/error.h"

using namespace sluice;
namespace fs = std::filesystem;

namespace {
struct Folder {
  fs::path path = fs::temp_directory_path() / ("sluice-file-" + std::to_string(::getpid()));
  Folder() { fs::create_directories(path); }
  ~Folder() { fs::remove_all(path); }
};
}  // namespace

TEST_CASE("replacing a file leaves no temporary behind and sets the mode") {
  Folder folder;
  replace_file(folder.path / "a", "one", 0600);
  replace_file(folder.path / "a", "two", 0600);
  CHECK(read_file(folder.path / "a") == "two");
  CHECK(std::distance(fs::directory_iterator(folder.path), fs::directory_iterator()) == 1);
  CHECK((fs::status(folder.path / "a").permissions() & fs::perms::mask) ==
        (fs::perms::owner_read | fs::perms::owner_write));
}

TEST_CASE("more files than the soft limit are opened where the hard one allows them") {
  Folder folder;
  replace_file(folder.path / "a", "12345");
  std::vector<File> files;
  files.push_back(File::open_read(folder.path / "a"));
  rlimit before{};
  REQUIRE(getrlimit(RLIMIT_NOFILE, &before) == 0);
  const auto limit = [&](rlim_t soft) {
    const rlimit now{soft, before.rlim_max};
    REQUIRE(setrlimit(RLIMIT_NOFILE, &now) == 0);
  };
  limit(static_cast<rlim_t>(files[0].descriptor()) + 8);
  for (int i = 0; i < 20; ++i) files.push_back(File::open_read(folder.path / "a"));
  CHECK(files.back().size() == 5);
  limit(before.rlim_cur);
}

TEST_CASE("a read beyond the end says how much was there") {
  Folder folder;
  replace_file(folder.path / "a", "12345");
  char to[8];
  CHECK_THROWS_WITH_AS(File::open_read(folder.path / "a").read_at(2, to, 8),
                       doctest::Contains("expected 8 bytes from offset 2, found 3"), Error);
}

TEST_CASE("a private folder open to others is refused with the cure") {
  Folder folder;
  make_private_folder(folder.path / "p");
  make_private_folder(folder.path / "p");
  ::chmod((folder.path / "p").c_str(), 0755);
  CHECK_THROWS_WITH_AS(make_private_folder(folder.path / "p"), doctest::Contains("chmod 700"), Error);
}
