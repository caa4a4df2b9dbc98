// SPDX-License-Identifier: Apache-2.0
#include <utility>

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

namespace {

class KeptExecutor : public Executor {
 public:
  KeptExecutor(std::unique_ptr<Executor> executor, std::shared_ptr<void> parts)
      : parts_(std::move(parts)), executor_(std::move(executor)) {}
  const ExecutorInfo& info() const override { return executor_->info(); }
  void run(const Step& step, StepResult& result) override { executor_->run(step, result); }
  bool collect(StepResult& result) override { return executor_->collect(result); }

 private:
  std::shared_ptr<void> parts_;  // destroyed after the executor
  std::unique_ptr<Executor> executor_;
};

}  // namespace

std::unique_ptr<Executor> keep_with(std::unique_ptr<Executor> executor, std::shared_ptr<void> parts) {
  return std::make_unique<KeptExecutor>(std::move(executor), std::move(parts));
}

}  // namespace sluice
