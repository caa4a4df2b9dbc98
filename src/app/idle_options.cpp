// SPDX-License-Identifier: Apache-2.0
#include "app/idle_options.h"

#include <fmt/format.h>

#include <algorithm>

#include "app/settings_table.h"
#include "base/error.h"

namespace sluice {
namespace {

struct Idle {
  const char* option;
  bool (*applies)(const Settings&, const RunKind&);
  const char* why;
};

bool of_null(const Settings&, const RunKind& run) { return run.null_model; }
bool of_cpu(const Settings&, const RunKind& run) { return run.gpu == false; }
bool of_gpu(const Settings&, const RunKind& run) { return run.gpu == true; }
bool of_encoder(const Settings& settings, const RunKind& run) { return run.encoder && settings.flag("prefix-cache"); }
bool of_socket(const Settings& settings, const RunKind&) { return settings.text("host").starts_with("unix:"); }
bool of_key(const Settings& settings, const RunKind&) { return settings.word("auth") == "key"; }
bool of_no_log(const Settings& settings, const RunKind&) {
  return settings.flag("log-prompts") && !settings.has("request-log");
}

constexpr const char* kNull = "it concerns a model that computes, and 'null' does not";
constexpr const char* kCpu = "it concerns GPUs, and this run computes on the CPU";
constexpr const char* kGpu = "it concerns CPUs, and this run computes on GPUs";

constexpr Idle kIdle[] = {
    {"dtype", of_null, kNull},
    {"quantize", of_null, kNull},
    {"tp", of_null, kNull},
    {"pp", of_null, kNull},
    {"tp-across-hosts", of_null, kNull},
    {"device", of_null, kNull},
    {"gpu-memory-utilization", of_null, kNull},
    {"deterministic", of_null, kNull},
    {"all-reduce", of_null, kNull},
    {"comm", of_null, kNull},
    {"threads", of_null, kNull},
    {"cpu-isa", of_null, kNull},
    {"experts", of_null, kNull},
    {"load-threads", of_null, kNull},
    {"gpu-memory-utilization", of_cpu, kCpu},
    {"all-reduce", of_cpu, kCpu},
    {"comm", of_gpu, kGpu},
    {"threads", of_gpu, kGpu},
    {"cpu-isa", of_gpu, kGpu},
    {"prefix-cache", of_encoder,
     "prompts that begin alike share what a decoder keeps of them, and here an encoder reads them"},
    {"port", of_socket, "the server listens on a socket (--host unix:...), which has none"},
    {"allowed-hosts", of_key, "whoever has the key may use any name; it belongs to --auth none"},
    {"log-prompts", of_no_log, "there is no request log to put them into; give --request-log FILE"},
};

[[noreturn]] void refuse(const Settings& settings, const std::string& name, const std::string& why) {
  throw Error(fmt::format("--{} {}: {}; leave it out", name, settings.text(name), why));
}

}  // namespace

bool is_typed(const Settings& settings, const std::string& name) { return settings.origin(name) == "--" + name; }

void refuse_revision(const std::string& revision, const std::string& model) {
  throw Error(fmt::format(
      "--revision {}: it chooses among those of a downloaded model (ORG/NAME), and {} is none; leave it out", revision,
      model));
}

void refuse_idle_options(const Settings& settings, const RunKind& run) {
  for (const Idle& row : kIdle) {
    const bool known = std::ranges::find(settings.table(), row.option, &Setting::name) != settings.table().end();
    if (!known || !is_typed(settings, row.option) || settings.text(row.option) == "auto") continue;
    if (row.applies(settings, run)) refuse(settings, row.option, row.why);
  }
}

void refuse_local_options(const Settings& settings, const std::string& server) {
  for (const SettingRow& row : settings_table()) {
    const std::string& name = row.setting.name;
    if (row.topic != Topic::kModel && row.topic != Topic::kRun) continue;
    if (name == "model" || name == "seed" || name == "log-level" || !is_typed(settings, name)) continue;
    refuse(settings, name, fmt::format("it concerns a model in this process, and {} is a server", server));
  }
}

}  // namespace sluice
