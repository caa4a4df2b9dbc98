// SPDX-License-Identifier: Apache-2.0
// Tensor- and pipeline-parallel ranks as threads, against the same reference as one rank.
#include <doctest/doctest.h>

#include "model/cpu_backend.h"
#include "model/run_model.h"

namespace sluice {
namespace {
using test::Golden;
using test::Outcome;

std::vector<Outcome> run_parallel(const Golden& golden, int tp, int pp, const std::string& dtype) {
  return test::run_ranks(golden, tp, pp, dtype, test::cpu_backend);
}
}  // namespace

TEST_CASE("Split over tp and pp ranks the logits are the reference's and greedy tokens identical") {
  const std::pair<int, int> layouts[] = {{2, 1}, {3, 1}, {4, 1}, {1, 2}, {2, 2}};
  for (const std::string& name : test::golden_cases()) {
    const Golden golden = test::read_golden(name);
    for (const auto& pair : layouts) {
      const int tp = pair.first, pp = pair.second;
      CAPTURE(name);
      CAPTURE(tp);
      CAPTURE(pp);
      const auto outcomes = run_parallel(golden, tp, pp, "float32");
      for (int rank = 0; rank < tp * pp; ++rank) {
        const Outcome& outcome = outcomes[static_cast<size_t>(rank)];
        CAPTURE(rank);
        if (rank / tp + 1 < pp) {
          CHECK(outcome.logits.empty());  // only the last stage has logits
          continue;
        }
        const double difference = test::max_difference(outcome.logits, golden.logits);
        CAPTURE(difference);
        CHECK(difference <= 1e-4);
        CHECK(outcome.greedy == golden.greedy);
        CHECK(outcome.logits == outcomes.back().logits);  // the same bits on every tp rank
      }
    }
  }
}

TEST_CASE("A pipeline gives the same bits as one rank") {
  for (const std::string name :
       {"llama2_gqa", "mistral_window", "bf16", "gpt2/inverse_layer", "qwen3/moe", "gemma/gemma3", "phi3/crossing"}) {
    const Golden golden = test::read_golden(name);
    const Outcome one = run_parallel(golden, 1, 1, "auto")[0];
    CHECK(run_parallel(golden, 1, 2, "auto")[1].logits == one.logits);
  }
}

TEST_CASE("Experts split over ranks or spread over them give the reference's logits and tokens") {
  for (const std::string name :
       {"mixtral/plain", "mixtral/odd_window", "qwen3/moe_mixed", "qwen3/qwen2_moe", "gpt_oss/plain"}) {
    const Golden golden = test::read_golden(name);
    for (const std::string experts : {"split", "spread"}) {
      for (const auto& pair : {std::pair{2, 1}, std::pair{3, 1}, std::pair{4, 1}, std::pair{8, 1}, std::pair{2, 2}}) {
        CAPTURE(name);
        CAPTURE(experts);
        CAPTURE(pair.first);
        const auto outcomes = test::run_ranks(golden, pair.first, pair.second, "float32", test::cpu_backend, experts);
        const double difference = test::max_difference(outcomes.back().logits, golden.logits);
        CAPTURE(difference);
        CHECK(difference <= 1e-4);
        CHECK(outcomes.back().greedy == golden.greedy);
        CHECK(outcomes.back().logits == outcomes[outcomes.size() - static_cast<size_t>(pair.first)].logits);
      }
    }
  }
}

TEST_CASE("More ranks than heads or than divide anything still give the reference's tokens") {
  for (const auto& pair : {std::pair{3, 1}, std::pair{8, 1}, std::pair{5, 2}}) {
    const int tp = pair.first, pp = pair.second;
    const Golden golden = test::read_golden("odd_counts");
    const Outcome outcome = run_parallel(golden, tp, pp, "float32").back();
    CAPTURE(tp);
    CHECK(test::max_difference(outcome.logits, golden.logits) <= 1e-4);
    CHECK(outcome.greedy == golden.greedy);
  }
}

TEST_CASE("Twelve heads over eight ranks and two stages give the reference's logits and tokens on every rank") {
  const Golden golden = test::read_golden("gpt2/twelve_heads");
  for (const auto& pair : {std::pair{8, 1}, std::pair{8, 2}}) {
    const int tp = pair.first, pp = pair.second;
    CAPTURE(pp);
    const auto outcomes = run_parallel(golden, tp, pp, "float32");
    REQUIRE(outcomes.size() == static_cast<size_t>(tp * pp));
    for (size_t rank = 0; rank < outcomes.size(); ++rank) {
      if (rank < static_cast<size_t>(tp * (pp - 1))) {
        CHECK(outcomes[rank].logits.empty());
        continue;
      }
      CHECK(test::max_difference(outcomes[rank].logits, golden.logits) <= 1e-4);
      CHECK(outcomes[rank].greedy == golden.greedy);
      CHECK(outcomes[rank].logits == outcomes.back().logits);
    }
  }
}

TEST_CASE("Half precision split over ranks stays within the reference's own rounding") {
  for (const std::string name : {"bf16", "f16", "bf16_qwen2", "gpt2/bf16"}) {
    const Golden golden = test::read_golden(name);
    const double tolerance = test::max_difference(golden.native_logits, golden.logits);
    for (const auto& pair : {std::pair{2, 1}, std::pair{4, 1}, std::pair{2, 2}}) {
      const int tp = pair.first, pp = pair.second;
      CAPTURE(name);
      CAPTURE(tp);
      CHECK(test::max_difference(run_parallel(golden, tp, pp, "auto").back().logits, golden.logits) <= tolerance);
    }
  }
}

}  // namespace sluice
