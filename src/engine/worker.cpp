// SPDX-License-Identifier: Apache-2.0
#include "engine/engine.h"

namespace sluice {

void run_worker(Executor& executor, const std::function<bool(std::vector<std::byte>&)>& next) {
  std::vector<std::byte> bytes;
  Step step;
  StepResult none;
  while (next(bytes)) {
    deserialise(bytes, step);
    executor.run(step, none);
    if (step.shutdown) return;
  }
}

}  // namespace sluice
