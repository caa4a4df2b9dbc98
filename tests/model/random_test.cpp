// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include "model/cpu_backend.h"
#include "model/run_model.h"

namespace sluice {

TEST_CASE("A random model of a named shape computes finite logits of moderate size, the same each time") {
  std::vector<float> first;
  for (int run = 0; run < 2; ++run) {
    const auto backend = test::cpu_backend();
    Groups groups = solo_groups();
    ModelSource source;
    source.random_shape = "qwen2-0.5b";
    source.quiet = true;
    const auto model = load_model(source, *backend, groups);
    CHECK(model->info().dtype == "bfloat16");
    CHECK(model->info().read_bytes >= static_cast<size_t>(model->info().linear_parameters) * 2);
    CHECK(model->info().read_bytes < static_cast<size_t>(model->info().linear_parameters) * 2 * 11 / 10);
    test::ModelRunner runner(*model, *backend);
    const std::vector<float> logits = runner.step({{0, {1, 1000, 100000}}});
    double squares = 0.0;
    for (const float v : logits) squares += static_cast<double>(v) * static_cast<double>(v);
    const double deviation = std::sqrt(squares / static_cast<double>(logits.size()));
    CHECK(deviation > 0.1);
    CHECK(deviation < 10.0);
    if (run == 0) first = logits;
    CHECK(logits == first);
  }
}

}  // namespace sluice
