// SPDX-License-Identifier: Apache-2.0
// What is still to be answered, and where finished answers go: a file of one's own, or one that several processes
// share. Owned by one thread.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "batch/claims.h"
#include "batch/journal.h"
#include "batch/prompt_file.h"

namespace sluice {

class Work {
 public:
  virtual ~Work() = default;
  // A prompt that this process is to answer; -1: none now.
  virtual int64_t next() = 0;
  // Keeps one answer. Throws Error when the disk is full; nothing is lost.
  virtual void record(int64_t index, std::string_view answer) = 0;
  // Syncs what was recorded; about once a second.
  virtual void sync() = 0;
  virtual bool complete() = 0;  // every prompt has its answer, by whomever
  // After complete(): puts all answers in input order at the output, by rename, and clears up. False when some are
  // missing after all: the work goes on.
  virtual bool finish() = 0;
  virtual int64_t done() = 0;             // answers known of
  virtual std::string waiting_for() = 0;  // whose work is awaited, for the log
};

// OUTPUT.journal, locked.
std::unique_ptr<Work> own_work(const PromptFile& prompts, const std::filesystem::path& output,
                               const std::string& fingerprint);

struct SharedOptions {
  Owner me;
  int64_t first = 0, of = 1;  // this process's place among those that start together
  int64_t chunk = 0;          // prompts of one claim; 0: from the file's length
  Claims::Options claims{};   // folder, chunks and first are filled in
};
// OUTPUT.shared/: claims, and a journal per process. Throws Error when the folder belongs to other prompts or settings.
// Null when the others have put the output in place and cleared up while this process joined them.
std::unique_ptr<Work> shared_work(const PromptFile& prompts, const std::filesystem::path& output,
                                  const std::string& fingerprint, SharedOptions options);
std::filesystem::path shared_folder(const std::filesystem::path& output);

}  // namespace sluice
