// SPDX-License-Identifier: Apache-2.0
// One rank against transformers' logits and greedy tokens.
#include <doctest/doctest.h>

#include <cstring>

#include "model/cpu_backend.h"
#include "model/run_model.h"

namespace sluice {
namespace {
using test::Golden;
using test::ModelRunner;
using test::Outcome;

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

std::vector<int32_t> slice(const std::vector<int32_t>& tokens, size_t begin, size_t end) {
  return {tokens.begin() + static_cast<std::ptrdiff_t>(begin),
          tokens.begin() + static_cast<std::ptrdiff_t>(std::min(end, tokens.size()))};
}

void append(std::vector<float>& to, const std::vector<float>& more) { to.insert(to.end(), more.begin(), more.end()); }
}  // namespace

TEST_CASE("In f32 every prompt position has the reference's logits and 64 greedy tokens are identical") {
  for (const std::string& name : test::golden_cases()) {
    CAPTURE(name);
    const Golden golden = test::read_golden(name);
    const auto backend = test::cpu_backend();
    Groups groups = solo_groups();
    const auto model = test::load_golden(golden, "float32", *backend, groups);
    const Outcome outcome = test::run_golden(*model, *backend, golden);
    const double difference = test::max_difference(outcome.logits, golden.logits);
    CAPTURE(difference);
    CHECK(difference <= 1e-4);
    CHECK(outcome.greedy == golden.greedy);
  }
}

// Half precision: transformers in that dtype rounds weights, activations and scores; this backend rounds a subset of
// those. So its distance from f32 arithmetic on the same weights may not exceed theirs, and a greedy choice may differ
// from f32's only where the margin is below twice that distance.
TEST_CASE("In half precision logits stay as close to f32 arithmetic as the reference's own") {
  int cases = 0;
  for (const std::string& name : test::golden_cases()) {
    const Golden golden = test::read_golden(name);
    if (golden.native_logits.empty()) continue;
    ++cases;
    CAPTURE(name);
    const auto backend = test::cpu_backend();
    Groups groups = solo_groups();
    const auto model = test::load_golden(golden, "auto", *backend, groups);
    CHECK(model->info().dtype == (name == "f16" ? "float16" : "bfloat16"));
    const Outcome outcome = test::run_golden(*model, *backend, golden);
    const double tolerance = test::max_difference(golden.native_logits, golden.logits);
    const double difference = test::max_difference(outcome.logits, golden.logits);
    CAPTURE(tolerance);
    CAPTURE(difference);
    CHECK(tolerance > 0.0);
    CHECK(difference <= tolerance);
    int firm = 0;
    for (size_t i = 0; i < golden.greedy.size(); ++i) {
      if (golden.margins[i] <= 2 * tolerance) continue;
      ++firm;
      CHECK(outcome.greedy[i] == golden.greedy[i]);
    }
    CHECK(firm >= 32);
  }
  CHECK(cases == 4);
}

TEST_CASE("A prompt in chunks or token by token has the same bits as in one step") {
  for (const std::string& name : test::golden_cases()) {
    CAPTURE(name);
    const Golden golden = test::read_golden(name);
    const auto backend = test::cpu_backend();
    Groups groups = solo_groups();
    const auto model = test::load_golden(golden, "auto", *backend, groups);
    ModelRunner whole(*model, *backend, golden.encoder);
    const std::vector<float> expected = whole.step({{0, golden.prompt}});
    for (const size_t chunk : {size_t{1}, size_t{7}, size_t{16}, size_t{33}}) {
      const auto again = test::load_golden(golden, "auto", *backend, groups);
      ModelRunner runner(*again, *backend, golden.encoder);
      runner.announce(2, golden.prompt.size());
      std::vector<float> logits;
      for (size_t at = 0; at < golden.prompt.size(); at += chunk)
        append(logits, runner.step({{2, slice(golden.prompt, at, at + chunk)}}));
      CAPTURE(chunk);
      CHECK(same_bits(logits, expected));
    }
  }
}

TEST_CASE("A sequence has the same bits whatever else is in the batch and however it is padded") {
  for (const std::string name : {"llama2_gqa", "mistral_window", "bf16", "f16", "qwen2", "gpt2/plain", "mixtral/plain",
                                 "qwen3/moe_mixed", "gemma/gemma2", "gemma/gemma3", "phi3/long", "phi/phi2"}) {
    CAPTURE(name);
    const Golden golden = test::read_golden(name);
    const auto backend = test::cpu_backend();
    Groups groups = solo_groups();
    const auto model = test::load_golden(golden, "auto", *backend, groups);
    const size_t n = golden.prompt.size(), vocab = static_cast<size_t>(model->info().vocab);
    std::vector<float> alone;
    {
      ModelRunner runner(*model, *backend);
      alone = runner.step({{0, golden.prompt}});
      append(alone, runner.step({{0, {golden.greedy[0]}}}));
    }
    const auto again = test::load_golden(golden, "auto", *backend, groups);
    ModelRunner runner(*again, *backend);
    runner.announce(0, n);
    // A decoding sequence, this prompt in two parts, and another prompt, together.
    runner.step({{3, slice(golden.prompt, 5, 17)}});
    const std::vector<float> a =
        runner.step({{3, {golden.prompt[17]}}, {0, slice(golden.prompt, 0, 20)}, {1, slice(golden.prompt, 3, 30)}}, 5);
    const std::vector<float> b = runner.step({{1, {golden.prompt[30]}}, {3, {9}}, {0, slice(golden.prompt, 20, n)}}, 3);
    const std::vector<float> c = runner.step({{0, {golden.greedy[0]}}, {3, {11}}});
    std::vector<float> together(a.begin() + static_cast<std::ptrdiff_t>(vocab),
                                a.begin() + static_cast<std::ptrdiff_t>(21 * vocab));
    together.insert(together.end(), b.begin() + static_cast<std::ptrdiff_t>(2 * vocab), b.end());
    together.insert(together.end(), c.begin(), c.begin() + static_cast<std::ptrdiff_t>(vocab));
    CHECK(same_bits(together, alone));
  }
}

TEST_CASE("A forked sequence continues from a copy of the blocks") {
  const Golden golden = test::read_golden("llama2_gqa");
  const auto backend = test::cpu_backend();
  Groups groups = solo_groups();
  const auto model = test::load_golden(golden, "auto", *backend, groups);
  ModelRunner runner(*model, *backend);
  runner.step({{0, golden.prompt}});
  runner.fork(0, 2);
  const std::vector<float> straight = runner.step({{0, {golden.greedy[0]}}});
  runner.step({{0, {3}}});
  CHECK(same_bits(runner.step({{2, {golden.greedy[0]}}}), straight));
}

TEST_CASE("A loaded model reports its bytes and its stop set") {
  const Golden golden = test::read_golden("llama1");
  const auto backend = test::cpu_backend();
  Groups groups = solo_groups();
  const auto model = test::load_golden(golden, "float32", *backend, groups);
  CHECK(model->info().weight_bytes > model->info().read_bytes);
  // Four bytes each: products of the layers and the head.
  CHECK(model->info().read_bytes >= static_cast<size_t>(model->info().linear_parameters) * 4);
  CHECK(model->info().kv_bytes_per_token == 2 * 2 * 4 * 8 * 4);
  CHECK(model->info().eos == std::vector<int32_t>{2});
}

}  // namespace sluice
