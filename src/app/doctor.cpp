// SPDX-License-Identifier: Apache-2.0
// sluice doctor: what is wrong with this place, and what to do. On a login node, in an allocation, or as the tasks of a
// step, whose exchange is then measured.
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "app/doctor_facts.h"
#include "app/doctor_ranks.h"
#include "app/verb.h"
#include "app/verbs.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/terminal.h"
#include "cluster/command.h"
#include "cluster/devices.h"
#include "cluster/endpoint.h"
#include "cluster/walltime.h"
#include "hub/cache.h"

namespace sluice {
namespace {
constexpr double kInternetSeconds = 3;
constexpr size_t kTopicWidth = 10;

struct DoctorOptions {
  bool json = false, no_internet = false;
};

void print(const Findings& findings, const std::string& where) {
  const bool colour = ::isatty(STDOUT_FILENO) == 1;
  const auto paint = [&](const char* code, const std::string& text) {
    return colour ? fmt::format("\033[{}m{}\033[0m", code, text) : text;
  };
  fmt::print("{}\n\n", paint("1", where));
  constexpr size_t kIndent = 2 + 6 + kTopicWidth + 1, kWidest = 100;
  const size_t columns = std::min(terminal_columns(STDOUT_FILENO), kWidest) - kIndent;
  for (const Finding& f : findings) {
    const char* code = f.verdict == Verdict::kOk ? "32" : f.verdict == Verdict::kWarn ? "33" : "31";
    fmt::print("  {} {:<{}} {}\n", paint(code, fmt::format("{:<5}", verdict_name(f.verdict))), f.topic, kTopicWidth,
               wrapped(f.text, kIndent, columns));
    if (!f.fix.empty())
      fmt::print("{}{} {}\n", std::string(kIndent, ' '), paint(code, "->"), wrapped(f.fix, kIndent + 3, columns - 3));
  }
  const auto count = [&](Verdict v) {
    return std::count_if(findings.begin(), findings.end(), [&](const Finding& f) { return f.verdict == v; });
  };
  fmt::print("\n{} ok, {} to look at, {} wrong\n", count(Verdict::kOk), count(Verdict::kWarn), count(Verdict::kFail));
}

int run(const DoctorOptions& options) {
  const Environment environment = process_environment();
  Findings out = judge_environment(environment);
  const auto add = [&](Finding finding) { out.push_back(std::move(finding)); };
  const auto add_all = [&](Findings more) { out.insert(out.end(), more.begin(), more.end()); };
  const HostFacts host = read_host_facts();
  Launch launch;
  try {
    launch = read_launch(environment);
  } catch (const Error&) {  // judge_environment has said so
  }
  const GpuFacts gpus = read_gpu_facts();
  const bool gpu = gpus.driver && gpus.module && (gpus.variable ? !gpus.visible.empty() : gpus.devices > 0);
  Findings between;
  if (launch.world > 1) {
    try {
      between = examine_ranks(launch, gpu);
    } catch (const Error& error) {
      between = {{"between", Verdict::kFail, error.what(), "several ranks cannot serve here before this is cured"}};
    }
    if (launch.rank != 0) return 0;
  }
  add(judge_cores(host.cpus, cpus_of_machine(), environment));
  add(judge_gpus(gpus, environment));
  add_all(judge_mpi(read_mpi_facts()));
  const std::vector<Interface> interfaces = read_interfaces();
  add(judge_interfaces(interfaces, host.host, resolve_name(host.host), environment));
  add_all(between);
  const PortLimits limits = read_port_limits();
  const std::vector<uint16_t> wanted = http_ports(launch.job_id, std::nullopt, limits);
  add(judge_ports(limits, wanted, free_ports(wanted, 1)));
  try {
    const std::filesystem::path home = sluice_home(environment);
    FolderFacts facts = read_folder("home", home, true, true);
    // What several ranks have just shown to be shared needs no guess from its type.
    facts.seen_by_all = launch.world > 1 && std::none_of(between.begin(), between.end(),
                                                         [](const Finding& f) { return f.verdict == Verdict::kFail; });
    add_all(judge_folder(facts));
    add(judge_keys(read_key_facts(home)));
    add_all(judge_folder(read_folder("models", read_hub_settings(environment).cache, false, false)));
  } catch (const Error& error) {
    add({"home", Verdict::kFail, error.what(), "set SLUICE_HOME to a private folder of yours that all nodes see"});
  }
  if (!options.no_internet) add(judge_internet(read_internet(kInternetSeconds)));
  Walltime walltime(environment, run_command, wall_seconds);
  const std::optional<double> left = walltime.seconds_left();
  add(judge_time_left(left, walltime.origin(), launch.job_id.has_value()));
  add_all(judge_limits(read_limits(), std::any_of(interfaces.begin(), interfaces.end(),
                                                  [](const Interface& i) { return i.infiniband; })));

  const bool failed = std::any_of(out.begin(), out.end(), [](const Finding& f) { return f.verdict == Verdict::kFail; });
  if (options.json) {
    nlohmann::json json = {{"host", host.host}, {"findings", nlohmann::json::array()}};
    json["job"] = launch.job_id ? nlohmann::json(*launch.job_id) : nlohmann::json(nullptr);
    for (const Finding& f : out)
      json["findings"].push_back(
          {{"topic", f.topic}, {"verdict", verdict_name(f.verdict)}, {"text", f.text}, {"fix", f.fix}});
    fmt::print("{}\n", json.dump(1, ' ', false, nlohmann::json::error_handler_t::replace));
  } else {
    print(out,
          fmt::format("{}{}", host.host, launch.job_id ? fmt::format(", job {}", *launch.job_id) : ", outside a job"));
    if (launch.job_id && launch.world == 1) fmt::print("Between ranks: srun --mpi=pmix -n2 {} doctor\n", "sluice");
  }
  return failed ? 1 : 0;
}

}  // namespace

void add_doctor(CLI::App& app, int& exit_code) {
  const auto [verb, options] = add_verb<DoctorOptions>(
      app, "doctor", "What is wrong with this place, and what to do. Exit code 1 where something is.", exit_code, run);
  verb->add_flag("--json", options->json, "Machine-readable.");
  verb->add_flag("--no-internet", options->no_internet, "Do not try to reach the hub.");
  verb->footer("As several tasks of a step it measures what the ranks exchange: srun -N2 --mpi=pmix sluice doctor.");
}

}  // namespace sluice
