// SPDX-License-Identifier: Apache-2.0
// Keeps the draws of constrained sequences to their grammars. Every rank that samples has one and feeds it the same
// steps and tokens, so all apply the same masks and nothing about them travels between ranks; no sequence waits for the
// leader. What takes longer than a moment (grammars that are new here, masks not seen before, many sequences) is found
// by a thread of its own while the backend computes the step's logits. Owned by one rank's executor, used on its
// thread.
#pragma once

#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "backend/backend.h"
#include "engine/grammar_compiler.h"
#include "grammar/runtime.h"
#include "schedule/step.h"

namespace sluice {

class Constraints {
 public:
  Constraints(Backend& backend, SamplerState& sampler, std::shared_ptr<GrammarCompiler> compiler, int64_t slots);
  ~Constraints();
  Constraints(const Constraints&) = delete;

  // After Backend::set_slot of the same slot, and wait(). Follows the tokens that were generated before a preemption.
  void set_slot(const SlotInit& init, std::span<const int32_t> history);
  // Its masks are being found from here on; all earlier draws of its sequences have been accepted.
  void prepare(const Step& step);
  // Until the sampler holds every mask that was asked for. Before Backend::sample and Backend::set_slot.
  void wait();
  // What came of a step with a constrained draw, one per sample.
  void accept(std::span<const SampleEntry> samples, std::span<const SampledToken> drawn);

 private:
  struct Slot {
    std::unique_ptr<grammar::Matcher> matcher;
    std::vector<char> grammar;     // not empty: for a matcher that is still to be made
    std::vector<int32_t> history;  // which it is to follow
    std::vector<uint32_t> mask;    // found, of an asynchronous backend: set by wait(), on the thread that queues
    int64_t end_position = 0;
    int64_t position = 0;  // that the sampler's mask is for, or is asked for
    bool constrained = false;
  };
  struct Kept {
    std::shared_ptr<const grammar::Automaton> automaton;
    std::shared_ptr<grammar::Runtime> runtime;
    uint64_t used = 0;
  };
  void ask(int32_t slot, int64_t position);
  void post();
  void work();
  void find_mask(int32_t slot);
  std::shared_ptr<grammar::Runtime> runtime(const GrammarSpec& spec);

  Backend& backend_;
  SamplerState& sampler_;
  std::shared_ptr<GrammarCompiler> compiler_;
  // Of the thread while it works, else of the executor.
  std::vector<Slot> slots_;
  std::vector<Kept> runtimes_;  // the recent ones
  uint64_t clock_ = 0;
  std::vector<int32_t> asked_, found_;  // slots
  std::exception_ptr failure_;

  std::mutex mutex_;  // the fields below
  std::condition_variable changed_;
  bool working_ = false, leaving_ = false;
  std::thread thread_;
};

}  // namespace sluice
