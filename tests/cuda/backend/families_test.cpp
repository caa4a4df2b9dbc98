// SPDX-License-Identifier: Apache-2.0
// Every family on the CUDA backend, beside transformers' logits and tokens.
#include <set>

#include "cuda/backend/twin.h"
#include "model/quantised_files.h"
#include "model/run_model.h"
#include "runtime.h"

namespace sluice {
namespace {

std::unique_ptr<Backend> cuda() { return test::make_cuda(); }

}  // namespace

TEST_CASE("every case has the reference's logits and 8 greedy tokens") {
  std::set<std::string> families;
  for (const std::string& name : test::golden_cases()) {
    CAPTURE(name);
    test::Golden golden = test::read_golden(name);
    golden.greedy.resize(8);
    const test::Outcome last = test::run_ranks(golden, 1, 1, "float32", cuda).back();
    const double difference = test::max_difference(last.logits, golden.logits);
    CAPTURE(difference);
    CHECK(difference <= 1e-4);
    CHECK(last.greedy == golden.greedy);
    ModelSource source;
    source.folder = golden.folder;
    families.insert(read_model_info(source).family);
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

TEST_CASE("checkpoints quantised elsewhere have the logits of the floats that they mean") {
  for (const char* kind : test::kQuantisedKinds) {
    CAPTURE(kind);
    test::QuantisedFiles files("rope_yarn", kind);
    files.golden.greedy.resize(4), files.meant.greedy.resize(4);
    const std::vector<float> expected = test::run_ranks(files.meant, 1, 1, "float32", cuda).back().logits;
    const auto backend = cuda();
    Groups groups = solo_groups();
    CHECK_FALSE(test::load_golden(files.golden, "float32", *backend, groups)->info().quantised.empty());
    const test::Outcome last = test::run_ranks(files.golden, 1, 1, "float32", cuda).back();
    CHECK(test::max_difference(last.logits, expected) <= 1e-4);
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
