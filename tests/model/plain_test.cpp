// SPDX-License-Identifier: Apache-2.0
// Every golden case on plain loops, on one rank and split: checks families, loading and splitting apart from kernels.
#include <doctest/doctest.h>

#include "base/file.h"
#include "model/plain_backend.h"
#include "model/run_model.h"
#include "weights/safetensors_file.h"

namespace sluice {
namespace {
std::unique_ptr<Backend> plain_backend() { return std::make_unique<test::PlainBackend>(); }

// A golden's folder with its config changed; the weights stay the golden's.
struct Changed {
  Changed(const std::string& name, const std::string& from, const std::string& to) {
    const test::Golden golden = test::read_golden(name);
    std::string config = read_file(golden.folder / "config.json");
    const size_t at = config.find(from);
    check(at != std::string::npos, "the text to change is in the config");
    folder.write("config.json", config.replace(at, from.size(), to));
    std::filesystem::copy(golden.folder / "model.safetensors", folder.path() / "model.safetensors");
    source.folder = folder.path();
    source.quiet = true;
  }
  std::string refusal(Groups groups = solo_groups()) const {
    test::PlainBackend backend;
    try {
      load_model(source, backend, groups);
    } catch (const Error& error) {
      return error.what();
    }
    return "nothing was refused";
  }
  test::TemporaryFolder folder;
  ModelSource source;
};

bool contains(const std::string& text, const std::string& part) {
  if (text.find(part) == std::string::npos) MESSAGE(text);
  return text.find(part) != std::string::npos;
}
}  // namespace

TEST_CASE("Weights that do not fit the config are refused by tensor, expected and found") {
  CHECK(contains(Changed("llama1", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3").refusal(),
                 "has no tensor model.layers.2.input_layernorm.weight, expected shape [32]"));
  CHECK(contains(Changed("llama1", "\"intermediate_size\": 24", "\"intermediate_size\": 64").refusal(),
                 "gate_proj.weight"));
  CHECK(contains(Changed("llama32_tied", "\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false").refusal(),
                 "has no tensor lm_head.weight, expected shape [96, 32]"));
  CHECK(contains(Changed("llama1", "\"attention_bias\": false", "\"attention_bias\": true").refusal(), "q_proj.bias"));
  CHECK(contains(Changed("llama1", "\"torch_dtype\": \"bfloat16\"", "\"torch_dtype\": \"int8\"").refusal(),
                 "expected float32, bfloat16 or float16"));
  CHECK(contains(Changed("llama1", "\"torch_dtype\": \"bfloat16\"", "\"torch_dtype\": \"float7\"").refusal(),
                 "config.json: torch_dtype is float7, expected float32, bfloat16 or float16"));
}

TEST_CASE("More stages than layers and a context beyond the model's are refused with the numbers") {
  const Changed same("llama1", "\"llama\"", "\"llama\"");
  CHECK(contains(same.refusal(std::move(make_thread_groups(1, 3)[2])), "--pp 3 is more than the 2 layers"));
  test::PlainBackend backend;
  Groups groups = solo_groups();
  const auto model = load_model(same.source, backend, groups);
  RunLimits limits;
  limits.blocks = {4};
  limits.max_rows = limits.max_logits = limits.max_seqs = 4;
  limits.max_context = 513;
  CHECK_THROWS_WITH_AS(model->allocate(limits), "a context of 513 tokens was asked for, the model supports 512", Error);
  limits.max_context = 512;
  limits.blocks = {int64_t{1} << 20};
  CHECK_THROWS_WITH_AS(model->allocate(limits), doctest::Contains("are free; ask for fewer tokens"), Error);
}

TEST_CASE("Layers with and without a window are two cache groups, the same on every stage") {
  const test::Golden golden = test::read_golden("qwen2_window");
  std::vector<Groups> groups = make_thread_groups(1, 2);
  for (size_t stage = 0; stage < 2; ++stage) {
    test::PlainBackend backend;
    const auto model = test::load_golden(golden, "auto", backend, groups[stage]);
    const auto& found = model->cache_groups();
    REQUIRE(found.size() == 2);
    CHECK(found[0].name == "self");
    CHECK(found[1].name == "window");
    CHECK(found[1].window == 8);
    CHECK(found[stage].bytes_per_token == 2 * 2 * 8 * 4);
    CHECK(found[1 - stage].bytes_per_token == 0);
    CHECK(model->info().kv_bytes_per_token == 2 * 2 * 8 * 4);
  }
}

TEST_CASE("On plain loops logits and greedy tokens are the reference's for every case, alone and in layouts by turns") {
  const std::pair<int, int> layouts[] = {{2, 1}, {1, 2}, {3, 1}, {2, 2}, {4, 1}, {8, 1}};
  size_t turn = 0;
  for (const std::string& name : test::golden_cases()) {
    const test::Golden golden = test::read_golden(name);
    for (const auto& pair : {std::pair{1, 1}, layouts[turn++ % 6], layouts[turn++ % 6]}) {
      const int tp = pair.first, pp = pair.second;
      CAPTURE(name);
      CAPTURE(tp);
      CAPTURE(pp);
      const test::Outcome outcome = test::run_ranks(golden, tp, pp, "float32", plain_backend).back();
      const double difference = test::max_difference(outcome.logits, golden.logits);
      CAPTURE(difference);
      CHECK(difference <= 1e-4);
      CHECK(outcome.greedy == golden.greedy);
    }
  }
}

TEST_CASE(
    "On plain loops stacks of mxfp4 experts give the reference's logits, split where no group is cut and spread") {
  const test::Golden golden = test::read_golden("gpt_oss/mxfp4");
  for (const auto& [experts, tp] : {std::pair{"auto", 1}, {"auto", 2}, {"spread", 3}, {"split", 2}}) {
    CAPTURE(experts);
    CAPTURE(tp);
    const test::Outcome outcome = test::run_ranks(golden, tp, 1, "float32", plain_backend, experts).back();
    CHECK(test::max_difference(outcome.logits, golden.logits) <= 1e-4);
    CHECK(outcome.greedy == golden.greedy);
  }
}

}  // namespace sluice
