// SPDX-License-Identifier: Apache-2.0
// Stands where `sluice` stands in a job: prints what this rank found out about itself as one JSON line, then waits
// PROBE_SECONDS for a signal. With one it reports it and leaves with PROBE_DRAIN_EXIT.
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>

#include "base/error.h"
#include "cluster/devices.h"
#include "cluster/launch.h"
#include "cluster/signals.h"
#include "cluster/walltime.h"

using namespace sluice;

namespace {

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

void say(const nlohmann::ordered_json& line) {
  const std::string text = line.dump() + "\n";  // one write, so that the lines of several ranks do not mix
  check(::write(STDOUT_FILENO, text.data(), text.size()) == static_cast<ssize_t>(text.size()), "printing failed");
}

nlohmann::ordered_json describe(const Launch& launch, int argc, char** argv) {
  const HostFacts facts = read_host_facts();
  Walltime walltime(process_environment(), run_command, [] { return 0.0; });
  nlohmann::ordered_json json = {{"launcher", launcher_name(launch.launcher)},
                                 {"rank", launch.rank},
                                 {"world", launch.world},
                                 {"local_rank", launch.local_rank},
                                 {"local_size", launch.local_size.value_or(-1)},
                                 {"job_id", launch.job_id.value_or(0)},
                                 {"step_id", launch.step_id},
                                 {"hosts", launch.hosts},
                                 {"node_name", launch.node_name},
                                 {"host", facts.host},
                                 {"restart_count", launch.restart_count},
                                 {"run_id", launch.run_id},
                                 {"record_id", record_id(launch, 0)},
                                 {"mpi_expected", launch.mpi_expected},
                                 {"warnings", launch.warnings.size()},
                                 {"seconds_left", walltime.seconds_left().value_or(-1)},
                                 {"cuda", variable("CUDA_VISIBLE_DEVICES")},
                                 {"cpus_per_task", variable("SLURM_CPUS_PER_TASK")},
                                 {"model", variable("MODEL_ID")},
                                 {"home", variable("HOME")},
                                 {"marker", variable("PROBE_MARKER")}};
  for (int i = 1; i < argc; ++i) json["arguments"].push_back(argv[i]);
  return json;
}

}  // namespace

int main(int argc, char** argv) try {
  block_signals();
  const Launch launch = read_launch(process_environment());
  std::atomic<int> caught{0};
  const SignalWatch watch([&](int signal, int) { caught = signal; });
  say(describe(launch, argc, argv));
  const std::string seconds = variable("PROBE_SECONDS");
  for (int tenth = 0; tenth < 10 * (seconds.empty() ? 0 : std::stoi(seconds)); ++tenth) {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    if (caught == 0) continue;
    say({{"rank", launch.rank}, {"drained", signal_name(caught)}, {"restart_count", launch.restart_count}});
    const std::string code = variable("PROBE_DRAIN_EXIT");
    return code.empty() ? 0 : std::stoi(code);
  }
  return 0;
} catch (const Error& error) {
  std::cerr << "probe: " << error.what() << "\n";
  return 2;
}
