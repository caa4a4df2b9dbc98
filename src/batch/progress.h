// SPDX-License-Identifier: Apache-2.0
// How far offline generation is, for whoever asks: $SLUICE_HOME/jobs/<id>.progress, one JSON object, private, replaced
// by rename.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "batch/run.h"

namespace sluice {

struct ProgressRecord {
  std::string id;     // of the job, as endpoint records have it
  std::string state;  // "running", "complete", "stopped" (prompts are left), "failed"
  std::string prompts, output, job_id, host;
  double updated = 0;  // seconds since 1970
  BatchProgress progress;
  std::string task;  // "148_3" of a task of an array
  std::string log;   // file of the job's output, empty when unknown
  int64_t pid = 0;
};

std::filesystem::path progress_path(const std::filesystem::path& home, std::string_view id);
void write_progress(const std::filesystem::path& home, const ProgressRecord& record);  // throws Error
std::optional<ProgressRecord> read_progress(const std::filesystem::path& home, std::string_view id);
// Every readable one, newest first.
std::vector<ProgressRecord> list_progress(const std::filesystem::path& home);

}  // namespace sluice
