// SPDX-License-Identifier: Apache-2.0
// Hand-made Steps that drive an Executor without scheduler or text: prefill a batch, then decode it.
#pragma once

#include <cstdint>

#include "engine/executor.h"

namespace sluice {

class BenchSteps {
 public:
  // tokens_per_slot: cache tokens that each sequence may use.
  BenchSteps(Executor& executor, int64_t tokens_per_slot);
  // Prefills `batch` sequences of `context` tokens each, one step per sequence, and samples the first token of each.
  void start(int64_t batch, int64_t context);
  void decode(int64_t steps);  // each step extends every sequence by one token
  int64_t context() const { return context_; }
  int64_t max_context() const { return tokens_per_slot_; }

 private:
  void run();
  Executor& executor_;
  int64_t tokens_per_slot_, batch_ = 0, context_ = 0;
  uint64_t next_id_ = 1;
  Step step_;
  StepResult result_;
};

}  // namespace sluice
