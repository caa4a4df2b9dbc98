// SPDX-License-Identifier: Apache-2.0
// Offline generation: every prompt of a file gets exactly one answer, in order, whatever is killed on the way.
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>

#include "batch/answerer.h"
#include "batch/prompt_file.h"
#include "batch/work.h"

namespace sluice {

struct BatchProgress {
  int64_t prompts = 0, done = 0, errors = 0;  // done: by all processes; errors: of this one
  int64_t generated_tokens = 0;               // by this process
  double tokens_per_second = 0;               // of this process
  std::optional<double> seconds_left;         // at the rate of all
};

struct BatchOptions {
  std::filesystem::path prompts, output;
  GenerateRequest defaults;             // parameters of prompts that say nothing
  uint64_t seed = 0;                    // with the prompt's index gives the seed of prompts that have none
  std::string fingerprint;              // model and settings that shape answers: a journal of another run is refused
  int64_t window = 128;                 // prompts under way at once
  std::optional<SharedOptions> shared;  // the work is divided with other processes
  double progress_seconds = 10;         // between progress lines in the log
  std::function<void(const BatchProgress&)> on_progress;  // about as often, and at the end
};

struct BatchReport {
  int64_t prompts = 0, done = 0, resumed = 0, errors = 0;  // errors: lines of the output that carry one
  int64_t generated_tokens = 0;                            // by this run
  double seconds = 0;
  bool complete = false;  // the output is in place; otherwise run again to go on
};

// Everything that can be checked before a model is loaded: the prompt file is readable, the output can be written, a
// finished one belongs to it. The number of its errors when nothing is left to do. Throws Error.
std::optional<int64_t> batch_is_complete(const BatchOptions& options);

// `stop`: set by a signal; what is under way is dropped, what is finished stays on disk. Throws Error (disk full,
// output of another run, an answerer that cannot go on).
BatchReport run_batch(const BatchOptions& options, Answerer& answerer, const std::atomic<bool>& stop);

}  // namespace sluice
