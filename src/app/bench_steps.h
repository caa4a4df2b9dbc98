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
  // Each step extends every sequence by one token. The last may still run on a device: finish() waits for it.
  void decode(int64_t steps);
  void finish();
  int64_t context() const { return context_; }
  int64_t max_context() const { return tokens_per_slot_; }

 private:
  void run();
  int64_t place(int64_t group, int64_t slot, int64_t i, int64_t each) const;  // `each`: blocks of a sequence
  Executor& executor_;
  int64_t tokens_per_slot_, batch_ = 0, context_ = 0;
  uint64_t next_id_ = 1, known_ = 0;  // known_: the last step whose tokens have come
  Step step_;
  StepResult result_;
};

}  // namespace sluice
