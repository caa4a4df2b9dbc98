// SPDX-License-Identifier: Apache-2.0
// An Executor replays Steps on one rank. Every rank has one; rank 0's is the one whose results the leader reads.
#pragma once

#include <memory>
#include <optional>

#include "model/model.h"
#include "schedule/step.h"

namespace sluice {

class GrammarCompiler;  // engine/grammar_compiler.h

struct ExecutorInfo {
  ModelInfo model;
  RunLimits limits;
  std::vector<CacheGroupSpec> cache_groups;
  int64_t slots = 0;                          // resident sequences
  int64_t enough_rows = 0;                    // as SchedulerOptions has it
  int stages = 1;                             // pipeline stages: steps that must be in flight to keep all busy
  double warm_seconds = 0;                    // first use of the device and recording, where the backend records
  std::shared_ptr<GrammarCompiler> grammars;  // draws keep to SamplingParams::grammar; none: they cannot
  bool full_sampler = false;                  // bans, forced tokens, decay and cutoffs too
  bool searches = false;                      // draws candidates of beams
};

class Executor {
 public:
  virtual ~Executor() = default;
  virtual const ExecutorInfo& info() const = 0;
  // Runs one step. On rank 0 `result` holds the sampled tokens of the step whose results are now known: with one stage
  // this very step, with several or on a device that runs behind an earlier one (result.id says which; 0 means none
  // yet). Other ranks leave it empty.
  // Called from one thread, in step order.
  virtual void run(const Step& step, StepResult& result) = 0;
  // Waits for the oldest step whose result is outstanding. Returns false when none is.
  virtual bool collect(StepResult& result) = 0;
  // Seconds that run() and collect() have spent waiting for a device so far; the rest is the host's own time.
  virtual double waited_seconds() const { return 0; }
};

struct ExecutorOptions {
  int64_t max_seqs = 0;     // sequences in one step
  int64_t max_rows = 0;     // token budget of one step
  int64_t max_context = 0;  // 0: the model's
  int64_t block_size = 16;
  size_t cache_bytes = 0;  // of this rank; 0: as much as memory allows
  // The cache leaves this much of the backend's memory free besides what a step takes, and is smaller than asked for
  // where it must be. Without: it is what was asked for, or does not fit.
  std::optional<size_t> spare_bytes;
  std::shared_ptr<GrammarCompiler> grammars;  // of this rank; none: no constrained output
};

// The real one: model, backend and sampling state. All three outlive it.
std::unique_ptr<Executor> make_model_executor(std::unique_ptr<Model> model, Backend& backend, Groups& groups,
                                              const ExecutorOptions& options);
// Fixed tokens and no compute, to measure everything around a model. `steps_per_s` above 0 gives it a model's pace.
std::unique_ptr<Executor> make_null_executor(const ExecutorOptions& options, int64_t vocab, int64_t token,
                                             double steps_per_s = 0);

}  // namespace sluice
