// SPDX-License-Identifier: Apache-2.0
// sluice keep SCRIPT: runs beside the ranks of a service's job. Submits the job's script again before the time runs
// out, and ends this job once the next one serves. For the job scripts; people use `launch --keep-alive`.
#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "app/verb.h"
#include "app/verbs.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "cluster/endpoint.h"
#include "cluster/signals.h"
#include "cluster/walltime.h"
#include "launch/chain.h"
#include "launch/jobs.h"
#include "launch/submit.h"

namespace sluice {
namespace {
constexpr double kLookSeconds = 1, kQueueSeconds = 10, kAgainSeconds = 60, kUnnamedSeconds = 120;
constexpr int kTestTries = 3;

struct KeepOptions {
  std::string script;
  bool enter = false, now = false;
};

// What this job is, read before the environment is cleaned for what is submitted from here.
struct Keeper {
  KeepPolicy policy = read_keep_policy(process_environment());
  std::filesystem::path home = sluice_home(process_environment());
  std::string job;
  Chain chain{home, policy.service};
  Walltime walltime{process_environment(), run_command, wall_seconds};

  Keeper() {
    const char* id = process_environment()("SLURM_JOB_ID");
    if (id == nullptr || policy.service.empty()) throw Error("keep: for the job scripts of a service alone");
    job = id;
    walltime.end_time();
    // The next job must not inherit this one's place in Slurm, its log or its local folder.
    std::vector<std::string> names;
    for (char** entry = environ; *entry != nullptr; ++entry) {
      const std::string name(*entry, std::strcspn(*entry, "="));
      if ((name.starts_with("SLURM_") && name != "SLURM_CONF") || name.starts_with("SRUN_") ||
          name.starts_with("SBATCH_") || name == "SLUICE_LOG" || name == "CUDA_VISIBLE_DEVICES")
        names.push_back(name);
    }
    for (const std::string& name : names) ::unsetenv(name.c_str());
  }

  std::optional<std::vector<QueueRow>> queue() const { return read_queue(run_command); }
  static bool holds(const std::vector<QueueRow>& queue, const std::string& id) {
    return std::any_of(queue.begin(), queue.end(), [&](const QueueRow& row) { return row.id == id; });
  }
  std::optional<Endpoint> record(const std::string& id) const {
    for (Endpoint& e : list_endpoints(home))
      if (e.job_id == id && e.service == policy.service) return std::move(e);
    return std::nullopt;
  }

  // Claims the place and fills it. Returns what the log says, and whether a successor is there now.
  std::pair<bool, std::string> submit(int generation, const std::string& script) {
    if (!chain.claim(generation, "")) return {true, "another has submitted the successor"};
    try {
      // In the environment and not in --export=ALL,NAME=value: there a value that is set already wins.
      ::setenv("SLUICE_GENERATION", std::to_string(generation).c_str(), 1);
      const std::string id = submit_script(run_command, script, {"--export=ALL"});
      chain.name_job(generation, id);
      return {true, fmt::format("submitted job {} as number {} of {}", id, generation, policy.service)};
    } catch (const Error& error) {
      chain.release(generation);
      return {false, error.what()};
    }
  }
};

// Takes the job's place in its service. Exit code 0: go on; 2: refused.
int enter(Keeper& keeper, const std::string& script) {
  if (keeper.policy.successors) {
    std::optional<CommandResult> said;
    for (int i = 0; i < kTestTries; ++i) {
      if (i > 0) std::this_thread::sleep_for(std::chrono::seconds(5));
      said = run_with_errors(run_command, {"sbatch", "--test-only", script}, 30);
      // A busy controller is asked again, a refusal is one.
      if (said && said->output.find("contact") == std::string::npos &&
          said->output.find("imed out") == std::string::npos)
        break;
    }
    if (!said || said->exit_code != 0) {
      const std::string words = !said                    ? "it does not answer"
                                : said->exit_code == 127 ? "there is no such program here"
                                                         : said->output.substr(0, said->output.find('\n'));
      throw Error(fmt::format(
          "--keep-alive needs to submit jobs from compute nodes, and sbatch here says: {}. Launch without it, or keep "
          "replicas from a login node with: sluice route --script FILE --min 1",
          words));
    }
  }
  const auto queue = keeper.queue();
  if (!queue) throw Error("--keep-alive and --name need squeue on compute nodes, and it does not answer here");
  Chain& chain = keeper.chain;
  if (chain.generation_of(keeper.job) > 0) return 0;  // requeued
  const char* given = process_environment()("SLUICE_GENERATION");
  const int generation = given == nullptr ? 0 : std::atoi(given);
  if (generation == 0) {
    for (const std::string& other : chain.jobs())
      if (keeper.holds(*queue, other))
        throw Error(fmt::format("service {} has job {} already; end it first: sluice stop {}", keeper.policy.service,
                                other, keeper.policy.service));
    chain.forget();
    if (!chain.claim(1, keeper.job))
      throw Error(fmt::format("service {} has begun twice at once", keeper.policy.service));
    return 0;
  }
  if (chain.stopped()) throw Error(fmt::format("service {} was stopped before this job began", keeper.policy.service));
  const auto there = chain.job_of(generation);
  if (!there || !there->empty())
    throw Error(fmt::format("number {} of service {} is {}, not this job", generation, keeper.policy.service,
                            there ? "job " + *there : "no longer wanted"));
  chain.name_job(generation, keeper.job);  // its predecessor has not come to it yet
  return 0;
}

int watch(Keeper& keeper, const std::string& script) {
  sigset_t term;  // the job script ends this process by it
  sigemptyset(&term);
  sigaddset(&term, SIGTERM);
  ::sigprocmask(SIG_UNBLOCK, &term, nullptr);
  const pid_t batch = ::getppid();
  const int generation = std::max(1, keeper.chain.generation_of(keeper.job));
  KeepFacts facts;
  facts.start = wall_seconds(), facts.generation = generation;
  double next_try = 0, next_queue = 0, unnamed_since = 0;
  bool quiet = false;
  while (::getppid() == batch) {
    std::this_thread::sleep_for(std::chrono::duration<double>(kLookSeconds));
    facts.now = wall_seconds();
    facts.end = keeper.walltime.end_time().value_or(0);
    facts.stopped = keeper.chain.stopped();
    if (!facts.ready) {
      const auto mine = keeper.record(keeper.job);
      facts.ready = mine && mine->state == EndpointState::kReady;
    }
    const auto next = keeper.chain.job_of(generation + 1);
    facts.claimed = next.has_value();
    facts.successor_lost = false;
    if (next && next->empty()) {
      // A keeper that died between claiming and submitting.
      if (unnamed_since == 0) unnamed_since = facts.now;
      if (facts.now - unnamed_since > kUnnamedSeconds) keeper.chain.release(generation + 1), unnamed_since = 0;
    } else if (next && facts.successor_ready_since == 0) {
      const auto record = keeper.record(*next);
      if (record && record->state == EndpointState::kReady) {
        facts.successor_ready_since = facts.now;
        log_info(fmt::format("job {} is ready and takes over {}", *next, keeper.policy.service));
      } else if (facts.now >= next_queue) {
        next_queue = facts.now + kQueueSeconds;
        const auto queue = keeper.queue();
        facts.successor_lost = queue && !keeper.holds(*queue, *next);
      }
    }
    const KeepStep step = next_keep_step(keeper.policy, facts);
    if (step.action == KeepAction::kLeave) {
      log_info(fmt::format("{}: this server drains", step.reason));
      ::kill(batch, SIGTERM);
      return 0;
    }
    if (step.action == KeepAction::kGiveUp) {
      if (!quiet) log_info(fmt::format("no successor is submitted: {}", step.reason));
      quiet = true;
      if (facts.stopped) return 0;
    }
    if (step.action != KeepAction::kSubmit || facts.now < next_try) continue;
    if (facts.successor_lost) keeper.chain.release(generation + 1);
    const auto [there, words] = keeper.submit(generation + 1, script);
    if (there) {
      ++facts.attempts;
      next_queue = wall_seconds() + kQueueSeconds;  // it may not be listed yet
      log_info(fmt::format("{}: {}", step.reason, words));
    } else {
      next_try = facts.now + kAgainSeconds;
      log_warning(
          fmt::format("the successor could not be submitted, trying again in {:.0f} s: {}", kAgainSeconds, words));
    }
  }
  return 0;
}

int run(const KeepOptions& options) {
  block_signals();  // those of a job are for its server and its script
  Keeper keeper;
  if (options.enter) return enter(keeper, options.script);
  const int generation = keeper.chain.generation_of(keeper.job);
  if (options.now) {
    if (generation > 0 && keeper.chain.job_of(generation + 1)) return 0;
    if (!keeper.policy.successors || keeper.chain.stopped() || generation == 0) return 1;
    if (keeper.policy.most_jobs > 0 && generation >= keeper.policy.most_jobs) return 1;
    if (keeper.policy.until > 0 && wall_seconds() >= keeper.policy.until) return 1;
    const auto [there, words] = keeper.submit(generation + 1, options.script);
    log_info("preempted: " + words);
    return there ? 0 : 1;
  }
  return watch(keeper, options.script);
}

}  // namespace

void add_keep(CLI::App& app, int& exit_code) {
  const auto [verb, options] = add_verb<KeepOptions>(
      app, "keep", "Keeps a service's jobs following one another; for the job scripts.", exit_code, run);
  verb->group("");
  verb->add_option("SCRIPT", options->script, "The job's script.");
  verb->add_flag("--enter", options->enter, "Take this job's place in its service.");
  verb->add_flag("--now", options->now,
                 "Submit the next job at once, unless it is there. Exit code 1: there is to be none.");
}

}  // namespace sluice
