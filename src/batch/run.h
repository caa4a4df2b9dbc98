// SPDX-License-Identifier: Apache-2.0
// Offline generation: every prompt of a file gets exactly one answer, in order, whatever is killed on the way.
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>

#include "batch/prompt_file.h"
#include "engine/engine.h"
#include "text/chat_template.h"

namespace sluice {

struct BatchOptions {
  std::filesystem::path prompts, output;
  GenerateRequest defaults;      // parameters of prompts that say nothing
  uint64_t seed = 0;             // with the prompt's index gives the seed of prompts that have none
  std::string fingerprint;       // model and settings that shape answers: a journal of another run is refused
  int64_t window = 128;          // prompts under way at once
  double progress_seconds = 10;  // between progress lines in the log
};

struct BatchReport {
  int64_t prompts = 0, done = 0, resumed = 0, errors = 0;  // errors: answers that carry one
  int64_t generated_tokens = 0;                            // by this run
  double seconds = 0;
  bool complete = false;  // the output is in place; otherwise run again to go on
};

// Everything that can be checked before a model is loaded: the prompt file is readable, a finished output belongs to
// it. Returns true when nothing is left to do. Throws Error.
bool batch_is_complete(const BatchOptions& options);

// `chat` may be null: lines with messages then carry an error. `stop`: set by a signal; what is under way is dropped,
// what is finished stays in the journal. Throws Error (disk full, output of another run).
BatchReport run_batch(const BatchOptions& options, Engine& engine, const ChatTemplate* chat,
                      const std::atomic<bool>& stop);

}  // namespace sluice
