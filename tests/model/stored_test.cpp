// SPDX-License-Identifier: Apache-2.0
// Models whose weights lie in other layouts or in fewer bits.
#include <doctest/doctest.h>

#include <cstring>

#include "model/cpu_backend.h"
#include "model/run_model.h"
#include "places.h"

namespace sluice {
namespace {
using test::Golden;
using test::ModelRunner;
using test::Outcome;

std::unique_ptr<Model> load(const Golden& golden, const std::string& quantize, Backend& backend, Groups& groups) {
  ModelSource source;
  source.folder = golden.folder;
  source.dtype = "float32";
  source.quantize = quantize;
  source.quiet = true;
  return load_model(source, backend, groups);
}

double spread(const std::vector<float>& logits) {
  double squares = 0;
  for (const float v : logits) squares += static_cast<double>(v) * static_cast<double>(v);
  return std::sqrt(squares / static_cast<double>(logits.size()));
}
}  // namespace

TEST_CASE("A FasterTransformer folder has the logits of the GPT-2 that it was made of, on one rank and on two") {
  Golden golden = test::read_golden("gpt2/plain");
  golden.folder = test::source_dir() / "tests/golden/checkpoints/faster_transformer";
  const auto backend = test::cpu_backend();
  Groups groups = solo_groups();
  const auto model = load(golden, "", *backend, groups);
  const Outcome outcome = test::run_golden(*model, *backend, golden);
  CHECK(test::max_difference(outcome.logits, golden.logits) <= 1e-4);
  CHECK(outcome.greedy == golden.greedy);
  for (const Outcome& rank : test::run_ranks(golden, 2, 1, "float32", test::cpu_backend))
    CHECK(test::max_difference(rank.logits, golden.logits) <= 1e-4);
}

TEST_CASE("Quantised while loading, logits stay near the reference and do not depend on how a prompt is cut") {
  for (const char* name : {"llama2_gqa", "gpt2/plain", "qwen2"}) {
    for (const auto& [scheme, tolerance] : {std::pair{"int8", 0.08}, {"int4", 0.8}}) {
      CAPTURE(name);
      CAPTURE(scheme);
      const Golden golden = test::read_golden(name);
      const auto backend = test::cpu_backend();
      Groups groups = solo_groups();
      const auto model = load(golden, scheme, *backend, groups), again = load(golden, scheme, *backend, groups);
      CHECK(model->info().quantised == scheme);
      ModelRunner whole(*model, *backend), pieces(*again, *backend);
      const std::vector<float> logits = whole.step({{1, golden.prompt}});
      double squares = 0;
      for (size_t i = 0; i < logits.size(); ++i) {
        const double off = static_cast<double>(logits[i]) - static_cast<double>(golden.logits[i]);
        squares += off * off;
      }
      CHECK(std::sqrt(squares / static_cast<double>(logits.size())) < tolerance * spread(golden.logits));
      std::vector<float> cut;
      for (size_t i = 0; i < golden.prompt.size(); i += 3) {
        const std::vector<int32_t> now(
            golden.prompt.begin() + static_cast<std::ptrdiff_t>(i),
            golden.prompt.begin() + static_cast<std::ptrdiff_t>(std::min(i + 3, golden.prompt.size())));
        const std::vector<float> some = pieces.step({{1, now}});
        cut.insert(cut.end(), some.begin(), some.end());
      }
      REQUIRE(cut.size() == logits.size());
      CHECK(std::memcmp(cut.data(), logits.data(), cut.size() * sizeof(float)) == 0);
    }
  }
}

}  // namespace sluice
