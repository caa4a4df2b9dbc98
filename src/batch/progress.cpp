// SPDX-License-Identifier: Apache-2.0
#include "batch/progress.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>

#include "base/error.h"
#include "base/file.h"
#include "text/value.h"

namespace sluice {

std::filesystem::path progress_path(const std::filesystem::path& home, std::string_view id) {
  return home / "jobs" / fmt::format("{}.progress", id);
}

void write_progress(const std::filesystem::path& home, const ProgressRecord& record) {
  const BatchProgress& p = record.progress;
  Dict out;
  out.set("id", record.id);
  out.set("state", record.state);
  out.set("job_id", record.job_id);
  out.set("task", record.task);
  out.set("host", record.host);
  out.set("log", record.log);
  out.set("pid", record.pid);
  out.set("prompts", record.prompts);
  out.set("output", record.output);
  out.set("total", p.prompts);
  out.set("done", p.done);
  out.set("errors", p.errors);
  out.set("generated_tokens", p.generated_tokens);
  out.set("tokens_per_second", p.tokens_per_second);
  out.set("seconds_left", p.seconds_left ? Value(*p.seconds_left) : Value());
  out.set("updated", record.updated);
  make_private_folder(home);
  make_private_folder(home / "jobs");
  replace_file(progress_path(home, record.id), Value(out).dump_compact() + "\n", 0600);
}

std::optional<ProgressRecord> read_progress(const std::filesystem::path& home, std::string_view id) {
  Value value;
  if (id.find('/') != std::string_view::npos) return std::nullopt;
  try {
    value = Value::parse_json(read_file(progress_path(home, id)));
  } catch (const std::exception&) {
    return std::nullopt;
  }
  const auto text = [&](const char* key) {
    const Value* found = value.find(key);
    return found != nullptr && found->is_string() ? found->as_string() : std::string();
  };
  const auto number = [&](const char* key) {
    const Value* found = value.find(key);
    return found != nullptr && found->is_number() ? found->as_float() : 0.0;
  };
  ProgressRecord out;
  out.id = text("id"), out.state = text("state"), out.job_id = text("job_id"), out.host = text("host");
  out.task = text("task"), out.log = text("log"), out.pid = static_cast<int64_t>(number("pid"));
  out.prompts = text("prompts"), out.output = text("output"), out.updated = number("updated");
  out.progress.prompts = static_cast<int64_t>(number("total"));
  out.progress.done = static_cast<int64_t>(number("done"));
  out.progress.errors = static_cast<int64_t>(number("errors"));
  out.progress.generated_tokens = static_cast<int64_t>(number("generated_tokens"));
  out.progress.tokens_per_second = number("tokens_per_second");
  if (const Value* left = value.find("seconds_left"); left != nullptr && left->is_number())
    out.progress.seconds_left = left->as_float();
  if (out.id != id) return std::nullopt;
  return out;
}

std::vector<ProgressRecord> list_progress(const std::filesystem::path& home) {
  std::vector<ProgressRecord> out;
  std::error_code error;
  for (std::filesystem::directory_iterator it(home / "jobs", error), end; !error && it != end; it.increment(error)) {
    if (it->path().extension() != ".progress") continue;
    if (auto record = read_progress(home, it->path().stem().string())) out.push_back(std::move(*record));
  }
  std::ranges::sort(out, std::ranges::greater(), &ProgressRecord::updated);
  return out;
}

}  // namespace sluice
