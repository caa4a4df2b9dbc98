// SPDX-License-Identifier: Apache-2.0
// Every golden case on plain loops, on one rank and split: checks families, loading and splitting apart from kernels.
#include <doctest/doctest.h>

#include "model/plain_backend.h"
#include "model/run_model.h"

namespace sluice {
namespace {
std::unique_ptr<Backend> plain_backend() { return std::make_unique<test::PlainBackend>(); }
}  // namespace

TEST_CASE("On plain loops logits and greedy tokens are the reference's for every case and layout") {
  const std::pair<int, int> layouts[] = {{1, 1}, {2, 1}, {3, 1}, {4, 1}, {8, 1}, {1, 2}, {2, 2}};
  for (const std::string& name : test::golden_cases()) {
    const test::Golden golden = test::read_golden(name);
    for (const auto& [tp, pp] : layouts) {
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

}  // namespace sluice
