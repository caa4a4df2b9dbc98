// SPDX-License-Identifier: Apache-2.0
#include "hub/repo.h"

#include <doctest/doctest.h>

#include <algorithm>

#include "base/error.h"

using namespace sluice;

namespace {
std::vector<std::string> chosen(const std::vector<std::string>& names, const std::vector<std::string>& include = {},
                                const std::vector<std::string>& exclude = {}) {
  std::vector<RepoFile> files;
  for (const std::string& name : names) files.push_back({name, 1, {}});
  std::vector<std::string> out;
  for (const RepoFile& file : choose_files(files, include, exclude)) out.push_back(file.path);
  return out;
}
using Names = std::vector<std::string>;
}  // namespace

TEST_CASE("weights come in one format, with the index that belongs to it") {
  CHECK(chosen({"config.json", "model-00001-of-00002.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
                "pytorch_model.bin.index.json", "tf_model.h5", "consolidated.safetensors", "README.md",
                "original/x.pth"}) ==
        Names{"config.json", "model-00001-of-00002.safetensors", "model.safetensors.index.json"});
  CHECK(chosen({"config.json", "pytorch_model.bin", "training_args.bin", "spiece.model", "tokenizer.model"}) ==
        Names{"config.json", "pytorch_model.bin", "spiece.model", "tokenizer.model"});
  CHECK(chosen({"nemo_gpt20B_bf16_tp4.nemo", "README.md", "LICENSE"}) == Names{"nemo_gpt20B_bf16_tp4.nemo", "LICENSE"});
}

TEST_CASE("patterns replace the choice and exclusions come first") {
  CHECK(chosen({"a.gguf", "b.gguf", "config.json"}, {"*.gguf"}, {"b*"}) == Names{"a.gguf"});
  CHECK(chosen({"config.json", "tokenizer.json"}, {}, {"tok*"}) == Names{"config.json"});
}

TEST_CASE("only what may pass by itself is tried again, after the delay that the server names") {
  GetResult result;
  result.status = 429;
  CHECK(worth_retrying(result));
  result.headers["ratelimit"] = "\"api\";r=0;t=57";
  CHECK(retry_delay(result, 0) == doctest::Approx(57));
  result.headers["retry-after"] = "3";
  CHECK(retry_delay(result, 0) == doctest::Approx(3));
  result = {};
  result.status = 503;
  CHECK(retry_delay(result, 20) == doctest::Approx(30));
  for (const long status : {401L, 403L, 404L, 416L}) {
    result.status = status;
    CHECK_FALSE(worth_retrying(result));
  }
}

TEST_CASE("addresses are resolved, compared by origin and quoted") {
  CHECK(url_origin("HTTPS://Hub.co:8443/a?b") == "https://hub.co:8443");
  CHECK(resolve_location("https://h/a/b?x", "/c") == "https://h/c");
  CHECK(resolve_location("https://h/a/b?x", "c") == "https://h/a/c");
  CHECK(resolve_location("https://h/a", "//cdn/x") == "https://cdn/x");
  CHECK(resolve_location("https://h/a", "http://o/x") == "http://o/x");
  CHECK(url_quote("refs/pr/1", false) == "refs%2Fpr%2F1");
  CHECK(url_quote("a b/ü", true) == "a%20b/%C3%BC");
}

TEST_CASE("revisions that lead out of the cache are refused") {
  for (const char* good : {"main", "v1.0", "refs/pr/1", "0123456789012345678901234567890123456789"})
    CHECK_NOTHROW(check_revision(good));
  for (const char* bad : {"", "..", "a/../b", "/etc", "a//b", "a b", "x/"}) CHECK_THROWS_AS(check_revision(bad), Error);
}
