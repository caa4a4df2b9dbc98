// SPDX-License-Identifier: Apache-2.0
// Keeps the draws of constrained sequences to their grammars. Every rank that samples has one and feeds it the same
// steps and tokens, so all apply the same masks and nothing about them travels between ranks; no sequence waits for the
// leader. For backends whose draws are known when a step has run. Owned by one rank's executor, used on its thread.
#pragma once

#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "backend/backend.h"
#include "engine/grammar_compiler.h"
#include "grammar/runtime.h"
#include "schedule/step.h"

namespace sluice {

class Constraints {
 public:
  Constraints(Backend& backend, SamplerState& sampler, std::shared_ptr<GrammarCompiler> compiler, int64_t slots);

  // After Backend::set_slot of the same slot. Follows the tokens that were generated before a preemption.
  void set_slot(const SlotInit& init, std::span<const int32_t> history);
  // Before Backend::sample of the step: sets its masks. False when no draw of the step is constrained.
  bool prepare(const Step& step);
  // After it, where prepare() was true: what came, one per sample.
  void accept(const Step& step, std::span<const SampledToken> drawn);

 private:
  struct Slot {
    std::unique_ptr<grammar::Matcher> matcher;  // none: free
    int64_t end_position = 0;
  };
  std::shared_ptr<grammar::Runtime> runtime(const GrammarSpec& spec);

  Backend& backend_;
  SamplerState& sampler_;
  std::shared_ptr<GrammarCompiler> compiler_;
  std::vector<Slot> slots_;
  struct Kept {
    std::shared_ptr<const grammar::Automaton> automaton;
    std::shared_ptr<grammar::Runtime> runtime;
    uint64_t used = 0;
  };
  std::vector<Kept> runtimes_;  // the recent ones
  uint64_t clock_ = 0;
};

}  // namespace sluice
