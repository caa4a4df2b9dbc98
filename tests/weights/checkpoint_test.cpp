// SPDX-License-Identifier: Apache-2.0
#include "weights/checkpoint.h"
#include "places.h"

#include <doctest/doctest.h>

#include "base/error.h"
#include "weights/safetensors_file.h"

namespace sluice {
namespace {
namespace fs = std::filesystem;
const fs::path kGolden = test::source_dir() / "tests/golden/llama";

std::string refusal(const auto& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing was refused";
}
std::string open_refusal(const fs::path& folder) {
  return refusal([&] { Checkpoint::open(folder, "model."); });
}
bool contains(const std::string& text, const std::string& part) {
  if (text.find(part) == std::string::npos) MESSAGE(text);
  return text.find(part) != std::string::npos;
}
const std::string kFour(4, '\0');
}  // namespace

TEST_CASE("Tensors of a sharded checkpoint are found in their shards") {
  const Checkpoint checkpoint = Checkpoint::open(kGolden / "sharded", "model.");
  CHECK(checkpoint.files().size() == 3);
  CHECK(checkpoint.at("model.embed_tokens.weight", {96, 32}).dtype() == DType::kF32);
  CHECK(checkpoint.at("lm_head.weight", {96, 32}).bytes == 96 * 32 * 4);
}

TEST_CASE("The base prefix may be absent in the file or in the question") {
  const Checkpoint bare = Checkpoint::open(kGolden / "bare_names", "model.");
  CHECK(bare.find("model.norm.weight") != nullptr);
  const Checkpoint full = Checkpoint::open(kGolden / "llama1", "model.");
  CHECK(full.find("norm.weight") == full.find("model.norm.weight"));
  CHECK(full.find("norm.bias") == nullptr);
}

TEST_CASE("A tensor is asked for by name and shape and the refusal tells both") {
  const Checkpoint checkpoint = Checkpoint::open(kGolden / "llama1", "model.");
  CHECK(contains(refusal([&] {
                   checkpoint.at("lm_head.weight", {96, 64});
                 }),
                 "expected shape [96, 64] from config.json, found BF16[96, 32]"));
  CHECK(contains(refusal([&] { checkpoint.at("model.layers.7.mlp.up_proj.weight", {1}); }),
                 "has no tensor model.layers.7"));
}

TEST_CASE("A stored type that no model reads is refused when it is asked for") {
  test::TemporaryFolder folder;
  folder.write("model.safetensors", test::safetensors_bytes({{"a", "F8_E4M3", {4}, kFour}}));
  const Checkpoint checkpoint = Checkpoint::open(folder.path(), "model.");
  CHECK(contains(refusal([&] { checkpoint.at("a", {4}); }), "tensor a is stored as F8_E4M3"));
}

TEST_CASE("Contents are compared by type, shape and bytes") {
  test::TemporaryFolder folder;
  folder.write(
      "model.safetensors",
      test::safetensors_bytes(
          {{"a", "F32", {1}, kFour}, {"b", "F32", {1}, kFour}, {"c", "F32", {1}, "abcd"}, {"d", "I32", {1}, kFour}}));
  const Checkpoint checkpoint = Checkpoint::open(folder.path(), "");
  CHECK(checkpoint.same_content(*checkpoint.find("a"), *checkpoint.find("b")));
  CHECK_FALSE(checkpoint.same_content(*checkpoint.find("a"), *checkpoint.find("c")));
  CHECK_FALSE(checkpoint.same_content(*checkpoint.find("a"), *checkpoint.find("d")));
}

TEST_CASE("Folders without usable weights are refused with what was found") {
  test::TemporaryFolder folder;
  CHECK(contains(open_refusal(folder.path() / "none"), "is not a folder"));
  CHECK(contains(open_refusal(folder.path()), "neither model.safetensors nor pytorch_model.bin"));
  folder.write("consolidated.00.pth", "x");
  CHECK(contains(open_refusal(folder.path()), "consolidated.00.pth; convert"));
  std::filesystem::rename(folder.path() / "consolidated.00.pth", folder.path() / "model.onnx");
  CHECK(contains(open_refusal(folder.path()), "model.onnx; convert"));
  folder.write("model.safetensors", "version https://git-lfs.github.com/spec/v1\n");
  CHECK(contains(open_refusal(folder.path()), "Git LFS pointer"));
}

TEST_CASE("An index and shards that do not belong together are refused") {
  test::TemporaryFolder folder;
  folder.write("one.safetensors", test::safetensors_bytes({{"a", "F32", {1}, kFour}}));
  const auto index = [&](const std::string& map) {
    folder.write("model.safetensors.index.json", R"({"weight_map":)" + map + "}");
  };
  index(R"({"a":"one.safetensors","b":"two.safetensors"})");
  CHECK(contains(open_refusal(folder.path()), "names the shard two.safetensors, which is not there"));
  folder.write("two.safetensors", test::safetensors_bytes({{"a", "F32", {1}, kFour}}));
  CHECK(contains(open_refusal(folder.path()), "tensor a is in both"));
  folder.write("two.safetensors", test::safetensors_bytes({{"c", "F32", {1}, kFour}}));
  CHECK(contains(open_refusal(folder.path()), "places tensor b in two.safetensors, found nowhere"));
  index(R"({"a":"two.safetensors","c":"one.safetensors"})");
  CHECK(contains(open_refusal(folder.path()), "places tensor a in two.safetensors, found one.safetensors"));
  index(R"({"a":"../one.safetensors"})");
  CHECK(contains(open_refusal(folder.path()), "expected a file of the same folder"));
  index("7");
  CHECK(contains(open_refusal(folder.path()), "no \"weight_map\" object"));
  folder.write("model.safetensors.index.json", "{");
  CHECK(contains(open_refusal(folder.path()), "model.safetensors.index.json is not JSON: line 1, column 2: "));
  index(R"({"a":"one.safetensors","c":"two.safetensors"})");
  CHECK(Checkpoint::open(folder.path(), "").tensors().size() == 2);
}

}  // namespace sluice
