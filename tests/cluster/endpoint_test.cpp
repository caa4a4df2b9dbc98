// SPDX-License-Identifier: Apache-2.0
#include "cluster/endpoint.h"

#include <doctest/doctest.h>
#include <sys/stat.h>

#include <set>
#include <thread>

#include "base/error.h"
#include "base/file.h"
#include "cluster/folder.h"

using namespace sluice;
namespace fs = std::filesystem;

namespace {
int mode_of(const fs::path& path) {
  struct stat info {};
  REQUIRE(::stat(path.c_str(), &info) == 0);
  return info.st_mode & 07777;
}
Endpoint sample(const std::string& id) {
  return {.id = id,
          .state = EndpointState::kReady,
          .url = "http://n1:10148",
          .host = "n1",
          .port = 10148,
          .job_id = id,
          .task = "6_1",
          .model = "a/b",
          .key_file = "/home/me/.sluice/keys/" + id + ".key",
          .log = "/home/me/serve-" + id + ".out",
          .service = "assistant",
          .pid = 42,
          .start_time = 1000.5,
          .end_time = 4600,
          .restart_count = 1,
          .reason = ""};
}
}  // namespace

TEST_CASE("a record comes back as it was written, private to its owner") {
  TestFolder folder;
  const fs::path home = folder.path / "home";
  Endpoint endpoint = sample("3430148");
  write_endpoint(home, endpoint);
  CHECK(mode_of(home) == 0700);
  CHECK(mode_of(home / "jobs") == 0700);
  CHECK(mode_of(endpoint_path(home, "3430148")) == 0600);
  endpoint.state = EndpointState::kDraining;
  endpoint.reason = "TERM";
  endpoint.loopback = true;
  write_endpoint(home, endpoint);
  const auto read = read_endpoint(home, "3430148");
  REQUIRE(read);
  CHECK(read->log == "/home/me/serve-3430148.out");
  CHECK(read->state == EndpointState::kDraining);
  CHECK(read->reason == "TERM");
  CHECK(read->url == "http://n1:10148");
  CHECK(read->port == 10148);
  CHECK(read->loopback);
  CHECK(read->task == "6_1");
  CHECK(read->pid == 42);
  CHECK(read->start_time == 1000.5);
  CHECK(read->end_time == 4600);
  CHECK(read->restart_count == 1);
  CHECK(read->key_file == endpoint.key_file);
  CHECK(std::distance(fs::directory_iterator(home / "jobs"), fs::directory_iterator()) == 1);
}

TEST_CASE("a run without a record has none") {
  TestFolder folder;
  CHECK_FALSE(read_endpoint(folder.path, "1"));
  CHECK(list_endpoints(folder.path).empty());
}

TEST_CASE("a record that others could have written is refused") {
  TestFolder folder;
  write_endpoint(folder.path, sample("7"));
  ::chmod(endpoint_path(folder.path, "7").c_str(), 0644);
  CHECK_THROWS_WITH_AS(read_endpoint(folder.path, "7"), doctest::Contains("mode 0644"), Error);
}

TEST_CASE("a file that is no record is refused with its name") {
  TestFolder folder;
  write_endpoint(folder.path, sample("7"));
  replace_file(endpoint_path(folder.path, "7"), "{\"id\": \"7\"", 0600);
  CHECK_THROWS_WITH_AS(read_endpoint(folder.path, "7"), doctest::Contains("7.json is not an endpoint record"), Error);
  replace_file(endpoint_path(folder.path, "7"), "{\"id\": \"7\", \"state\": \"asleep\"}", 0600);
  CHECK_THROWS_WITH_AS(read_endpoint(folder.path, "7"), doctest::Contains("unknown state 'asleep'"), Error);
}

TEST_CASE("the list is newest first and a broken record hides no other") {
  TestFolder folder;
  Endpoint old = sample("1"), recent = sample("local-2");
  recent.start_time = 2000;
  write_endpoint(folder.path, old);
  write_endpoint(folder.path, recent);
  replace_file(endpoint_path(folder.path, "3"), "no", 0600);
  const auto list = list_endpoints(folder.path);
  REQUIRE(list.size() == 2);
  CHECK(list[0].id == "local-2");
  CHECK(list[1].id == "1");
}

TEST_CASE("an id never leaves the folder") {
  for (const char* id : {"", "../secret", "a/b", ".hidden", "a b"}) {
    CAPTURE(id);
    CHECK_THROWS_WITH_AS(endpoint_path("/home", id), doctest::Contains("is not a run id"), Error);
  }
}

TEST_CASE("the home is SLUICE_HOME, else a folder of HOME") {
  CHECK(sluice_home(map_environment({{"SLUICE_HOME", "/scratch/s"}, {"HOME", "/home/me"}})) == "/scratch/s");
  CHECK(sluice_home(map_environment({{"HOME", "/home/me"}})) == "/home/me/.sluice");
  CHECK_THROWS_WITH_AS(sluice_home(map_environment({})), doctest::Contains("set SLUICE_HOME"), Error);
  CHECK_THROWS_WITH_AS(sluice_home(map_environment({{"SLUICE_HOME", "rel"}})), doctest::Contains("absolute path"),
                       Error);
}

TEST_CASE("a key is private, random, and kept for a requeued job") {
  TestFolder folder;
  const fs::path path = make_key(folder.path / "h", "9", false);
  CHECK(mode_of(path) == 0600);
  CHECK(mode_of(path.parent_path()) == 0700);
  const std::string first = read_key(path);
  CHECK(first.size() == 64);
  make_key(folder.path / "h", "9", true);
  CHECK(read_key(path) == first);
  make_key(folder.path / "h", "9", false);
  CHECK(read_key(path) != first);
}

TEST_CASE("a key that others can read is refused with the cure") {
  TestFolder folder;
  const fs::path path = make_key(folder.path, "9", false);
  ::chmod(path.c_str(), 0640);
  CHECK_THROWS_WITH_AS(read_key(path), doctest::Contains("chmod 600"), Error);
  CHECK_THROWS_AS(make_key(folder.path, "9", true), Error);
  replace_file(path, "short\n", 0600);
  CHECK_THROWS_WITH_AS(read_key(path), doctest::Contains("expected 64 hex digits, found 5"), Error);
}

TEST_CASE("ranks that make the user's secret at once all get the same one") {
  TestFolder folder;
  std::vector<std::string> secrets(16);
  std::vector<std::thread> threads;
  for (std::string& secret : secrets) threads.emplace_back([&] { secret = user_secret(folder.path); });
  for (std::thread& thread : threads) thread.join();
  CHECK(std::set<std::string>(secrets.begin(), secrets.end()).size() == 1);
  CHECK(secrets[0].size() == 64);
  CHECK(mode_of(folder.path / "secret") == 0600);
  CHECK(std::distance(fs::directory_iterator(folder.path), fs::directory_iterator()) == 1);  // no candidate left
}
