// SPDX-License-Identifier: Apache-2.0
// An executor whose tokens are a function of position, seed and choice; optionally slow, or held by a gate.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <unordered_map>

#include "engine/executor.h"

namespace sluice {

class ScriptExecutor : public Executor {
 public:
  using Script = std::function<SampledToken(int32_t position, uint64_t seed, int32_t choice)>;

  ScriptExecutor(int64_t slots, int64_t rows, int64_t context, int64_t blocks, Script script)
      : script_(std::move(script)) {
    info_.model.family = info_.model.name = "script";
    info_.model.vocab = 258;
    info_.model.eos = {257};
    info_.cache_groups = {{"self", CacheGroupSpec::Growth::kPerToken, 1, 0}};
    info_.limits.blocks = {blocks};
    info_.limits.max_rows = info_.limits.max_logits = rows;
    info_.limits.max_seqs = info_.slots = slots;
    info_.limits.max_context = context;
  }
  const ExecutorInfo& info() const override { return info_; }
  void run(const Step& step, StepResult& result) override {
    while (gate && gate->load()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    for (const SlotInit& init : step.inits) slots_[init.slot] = init.params;
    result.id = step.id;
    result.tokens.clear();
    for (const SampleEntry& e : step.samples) {
      const SamplingParams& p = slots_[e.slot];
      SampledToken t = script_(e.position, p.seed, p.choice);
      if (e.target >= 0) t.token = e.target;
      result.tokens.push_back(t);
    }
    if (pause_ms > 0) std::this_thread::sleep_for(std::chrono::milliseconds(pause_ms));
  }
  bool collect(StepResult&) override { return false; }

  std::shared_ptr<std::atomic<bool>> gate;  // true: steps wait
  int pause_ms = 0;

 private:
  ExecutorInfo info_;
  Script script_;
  std::unordered_map<int32_t, SamplingParams> slots_;
};

// Bytes of `text` after a prompt of `n_prompt` tokens, over and over; '$' is end of sequence.
inline ScriptExecutor::Script say(std::string text, int32_t n_prompt) {
  return [=](int32_t position, uint64_t, int32_t) {
    SampledToken t;
    const char c = text[static_cast<size_t>(position - n_prompt) % text.size()];
    t.token = c == '$' ? 257 : static_cast<unsigned char>(c);
    t.logprob = -0.5f;
    return t;
  };
}

}  // namespace sluice
