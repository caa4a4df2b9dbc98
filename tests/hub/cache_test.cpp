// SPDX-License-Identifier: Apache-2.0
#include "hub/cache.h"

#include <doctest/doctest.h>

#include <cstdlib>
#include <fstream>

#include "base/error.h"

using namespace sluice;
namespace fs = std::filesystem;

namespace {
struct Folder {
  fs::path path;
  Folder() {
    char name[] = "/tmp/sluice-hub-XXXXXX";
    path = ::mkdtemp(name);
  }
  ~Folder() { fs::remove_all(path); }
};
void write(const fs::path& path, const char* text) {
  fs::create_directories(path.parent_path());
  std::ofstream(path) << text;
}
HubSettings hub_of(std::map<std::string, std::string> values) {
  return read_hub_settings(map_environment(std::move(values)));
}
const std::string kCommit(40, 'a');
}  // namespace

TEST_CASE("the cache folder follows the variables in the order of huggingface_hub") {
  CHECK(hub_of({{"HOME", "/h"}}).cache == "/h/.cache/huggingface/hub");
  CHECK(hub_of({{"HOME", "/h"}, {"XDG_CACHE_HOME", "/x"}}).cache == "/x/huggingface/hub");
  CHECK(hub_of({{"HOME", "/h"}, {"HF_HOME", "/f"}}).cache == "/f/hub");
  CHECK(hub_of({{"HOME", "/h"}, {"HF_HOME", "/f"}, {"TGI_DIR", "/t"}}).cache == "/t/hub");
  CHECK(hub_of({{"HF_HOME", "/f"}, {"HUGGINGFACE_HUB_CACHE", "/old"}}).cache == "/old");
  CHECK(hub_of({{"HF_HOME", "/f"}, {"HUGGINGFACE_HUB_CACHE", "/old"}, {"HF_HUB_CACHE", "/new"}}).cache == "/new");
  CHECK_THROWS_WITH_AS(hub_of({}), doctest::Contains("HF_HOME"), Error);
}

TEST_CASE("a token comes from the variable, else from the first line of its file, and names its origin") {
  const Folder home;
  write(home.path / "token", "hf_file\nsecond line");
  HubSettings hub = hub_of({{"HF_HOME", home.path}});
  CHECK(hub.token == "hf_file");
  CHECK(hub.token_origin == (home.path / "token").string());
  hub = hub_of({{"HF_HOME", home.path}, {"HUGGING_FACE_HUB_TOKEN", "hf_old"}});
  CHECK(hub.token == "hf_old");
  hub = hub_of({{"HF_HOME", home.path}, {"HUGGING_FACE_HUB_TOKEN", "hf_old"}, {"HF_TOKEN", "hf_new"}});
  CHECK(hub.token_origin == "HF_TOKEN");
  CHECK_THROWS_WITH_AS(hub_of({{"HF_HOME", home.path}, {"HF_TOKEN", "hf_x\r\nHost: y"}}), doctest::Contains("HF_TOKEN"),
                       Error);
}

TEST_CASE("names of the hub are told from folders and from mischief") {
  for (const char* good : {"gpt2", "org/model", "meta-llama/Llama-3.1-8B", "a_b/c.d"}) CHECK(is_repo_id(good));
  for (const char* bad : {"", "a/b/c", "/abs", "../up", "a/..", "a//b", "a b", "org/", "-x/y", "a--b/c", ".hidden/x"})
    CHECK_FALSE(is_repo_id(bad));
}

TEST_CASE("a snapshot is found by ref or commit, and only when it is whole") {
  const Folder home;
  const HubSettings hub = hub_of({{"HF_HUB_CACHE", home.path}, {"HOME", "/h"}});
  const RepoCache paths(hub.cache, "org/model");
  CHECK_FALSE(find_model(hub, "org/model", ""));
  write(paths.snapshot(kCommit) / "config.json", "{}");
  CHECK_FALSE(find_model(hub, "org/model", ""));  // its ref is written last
  CHECK(find_model(hub, "org/model", kCommit) == paths.snapshot(kCommit));
  write(paths.ref("main"), kCommit.c_str());
  write(paths.ref("refs/pr/1"), kCommit.c_str());
  CHECK(find_model(hub, "org/model", "") == paths.snapshot(kCommit));
  CHECK(find_model(hub, "org/model", "refs/pr/1") == paths.snapshot(kCommit));
  CHECK_FALSE(find_model(hub, "org/model", "v2"));
}

TEST_CASE("shared folders are searched before the cache, as plain folders and as cache roots") {
  const Folder home;
  const HubSettings hub = hub_of({{"HF_HUB_CACHE", home.path / "own"},
                                  {"HOME", "/h"},
                                  {"MODEL_PATH", (home.path / "one").string() + ":" + (home.path / "two").string()}});
  CHECK(hub.search.size() == 2);
  const RepoCache shared(home.path / "two", "org/model");
  write(shared.snapshot(kCommit) / "config.json", "{}");
  write(shared.ref("main"), kCommit.c_str());
  CHECK(find_model(hub, "org/model", "") == shared.snapshot(kCommit));
  write(home.path / "one/model/config.json", "{}");
  CHECK(find_model(hub, "org/model", "") == home.path / "one/model");
  CHECK(find_model(hub, "org/model", "main") == shared.snapshot(kCommit));  // plain folders have no revisions
}

TEST_CASE("a missing model names every place and the line that fetches it") {
  const HubSettings hub =
      hub_of({{"HF_HUB_CACHE", "/nowhere/cache"}, {"HOME", "/h"}, {"MODEL_PATH", "/nowhere/shared"}});
  CHECK_THROWS_WITH_AS(require_model(hub, "org/model", ""), doctest::Contains("/nowhere/shared, /nowhere/cache"),
                       Error);
  CHECK_THROWS_WITH_AS(require_model(hub, "org/model", "v1"),
                       doctest::Contains("sluice download org/model --revision v1"), Error);
  CHECK_THROWS_WITH_AS(require_model(hub, "./no/such/folder", ""),
                       doctest::Contains("neither a folder with a checkpoint"), Error);
}
