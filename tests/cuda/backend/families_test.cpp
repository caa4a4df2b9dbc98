// SPDX-License-Identifier: Apache-2.0
// Every family on the CUDA backend, beside transformers' logits and tokens.
#include <set>

#include "comm/communicator.h"
#include "cuda/backend/twin.h"
#include "model/run_model.h"
#include "runtime.h"

namespace sluice {
namespace {

constexpr size_t kTokens = 8;

constexpr const char* kGoldens[] = {"llama2_gqa",
                                    "llama31_rope",
                                    "rope_yarn",
                                    "mistral_window",
                                    "qwen2",
                                    "qwen3/dense",
                                    "gemma/gemma1",
                                    "gemma/gemma2",
                                    "gemma/gemma3",
                                    "phi/phi2",
                                    "phi3/window",
                                    "gpt2/plain",
                                    "bloom/plain",
                                    "falcon/multi_query",
                                    "falcon/new_decoder",
                                    "gpt_neox/parallel",
                                    "gpt_neox/sequential",
                                    "opt/post_norm",
                                    "megatron_gpt/rope",
                                    "starcoder2/plain",
                                    "mixtral/plain",
                                    "qwen3/moe",
                                    "qwen3/qwen2_moe",
                                    "rope_dynamic",
                                    "phi3/crossing",
                                    "falcon/alibi",
                                    "t5/flan"};

}  // namespace

TEST_CASE("every family has the reference's logits and 8 greedy tokens") {
  std::set<std::string> families;
  for (const char* name : kGoldens) {
    CAPTURE(name);
    const test::Golden golden = test::read_golden(name);
    const auto backend = test::make_cuda();
    Groups groups = solo_groups();
    const auto model = test::load_golden(golden, "float32", *backend, groups);
    families.insert(model->info().family);
    test::ModelRunner runner(*model, *backend, golden.encoder);
    std::vector<float> logits = runner.step({{0, golden.prompt}});
    const double difference = test::max_difference(logits, golden.logits);
    CAPTURE(difference);
    CHECK(difference <= 1e-4);
    const auto vocab = static_cast<std::ptrdiff_t>(model->info().vocab);
    std::vector<int32_t> tokens;
    while (tokens.size() < kTokens) {
      const auto last = logits.end() - vocab;
      tokens.push_back(static_cast<int32_t>(std::max_element(last, logits.end()) - last));
      if (tokens.size() < kTokens) logits = runner.step({{0, {tokens.back()}}});
    }
    CHECK(tokens == std::vector<int32_t>(golden.greedy.begin(), golden.greedy.begin() + kTokens));
  }
  for (const FamilyNames& family : family_names()) {
    CAPTURE(family.name);
    CHECK(families.contains(family.name));
  }
}

TEST_CASE("a decode step of few sequences launches six kernels a layer") {
  const test::Golden golden = test::read_golden("llama2_gqa");
  constexpr uint64_t kEach = 6;
  for (const size_t rows : {1, 4}) {
    CAPTURE(rows);
    const auto backend = test::make_cuda();
    Groups groups = solo_groups();
    const auto model = test::load_golden(golden, "bfloat16", *backend, groups);
    test::ModelRunner runner(*model, *backend);
    std::vector<test::Chunk> prompts, next;
    for (size_t i = 0; i < rows; ++i) {
      prompts.push_back({static_cast<int64_t>(i), golden.prompt});
      next.push_back({static_cast<int64_t>(i), {golden.prompt.front()}});
    }
    for (const test::Chunk& prompt : prompts) runner.step({prompt});
    const uint64_t before = emulation::launches();
    runner.step(next);
    // Beside the layers: the embedding, the rows that are wanted and the last norm with the head.
    const uint64_t layers = static_cast<uint64_t>(model->info().n_layers), all = emulation::launches() - before;
    CAPTURE(all);
    CHECK(all >= kEach * layers);
    CHECK(all <= kEach * layers + 4);
  }
}

TEST_CASE("models with weights of 8 and 4 bits stay close to the CPU backend's") {
  for (const char* quantize : {"int8", "int4"}) {
    CAPTURE(quantize);
    const test::Golden golden = test::read_golden("llama2_gqa");
    const auto logits = [&](Backend& backend) {
      ModelSource source;
      source.folder = golden.folder;
      source.quantize = quantize;
      source.quiet = true;
      Groups groups = solo_groups();
      const auto model = load_model(source, backend, groups);
      CHECK(model->info().quantised == quantize);
      return test::ModelRunner(*model, backend).step({{0, golden.prompt}});
    };
    const auto cpu = make_cpu_backend({});
    const auto cuda = test::make_cuda();
    const std::vector<float> expected = logits(*cpu), got = logits(*cuda);
    double spread = 0;
    for (const float v : expected) spread = std::max(spread, std::abs(static_cast<double>(v)));
    CHECK(test::max_difference(got, expected) < 0.05 * spread);  // the CPU rounds activations too
  }
}

}  // namespace sluice
