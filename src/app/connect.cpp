// SPDX-License-Identifier: Apache-2.0
// sluice connect JOB: a local address for a job's server, wherever it runs. Adds the key for clients that cannot send
// one, and follows the job when it moves.
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <memory>
#include <mutex>
#include <thread>

#include "app/tunnel.h"
#include "app/verb.h"
#include "app/verbs.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "client/relay.h"
#include "cluster/endpoint.h"
#include "cluster/signals.h"
#include "launch/jobs.h"

namespace sluice {
namespace {
constexpr double kLookSeconds = 2, kMoveSeconds = 20;
constexpr int kTries = 3;

struct ConnectOptions {
  std::string job, via, bind_socket;
  int port = 0;
  bool exit_when_over = false;
};

// The server as it is now, and the way to it.
class Follower {
 public:
  explicit Follower(const ConnectOptions& options)
      : options_(options), home_(sluice_home(process_environment())), name_(options.job), way_(options.via) {}

  // Reads the record, and from time to time the queue. Returns what changed, in words, or nothing.
  std::string look() {
    const std::lock_guard looking(look_mutex_);
    const std::vector<Endpoint> records = list_endpoints(home_);
    const std::vector<JobView> jobs =
        reconcile(records, queue_.read(records, monotonic_seconds(), wall_seconds()), local_facts());
    JobView job = find_job(jobs, name_);
    if (!job.server) throw Error(fmt::format("job {} is no server: {}", job.id, job.detail));
    // A job of a service is followed by others of that name.
    if (!job.service.empty() && job.service != name_) job = find_job(jobs, name_ = job.service);
    const std::lock_guard lock(mutex_);
    const bool moved = job.url != job_.url || job.state != job_.state;
    job_ = std::move(job);
    way_.forget(job_);
    return moved ? fmt::format("{}: {}{}{}", job_.id, job_.state, job_.url.empty() ? "" : " at " + job_.url,
                               job_.detail.empty() ? "" : " (" + job_.detail + ")")
                 : std::string();
  }

  bool over() {
    const std::lock_guard lock(mutex_);
    return is_over(job_);
  }
  void require_going() {
    const std::lock_guard lock(mutex_);
    sluice::require_going(job_);
  }
  bool ready() {
    const std::lock_guard lock(mutex_);
    return job_.state == "ready";
  }

  // The server has not answered or has refused: one that says it is ready is asked twice more, else the one that takes
  // over is waited for a little.
  std::optional<RelayTarget> another(const std::vector<uint64_t>& failed, std::string& why) {
    for (const double end = monotonic_seconds() + kMoveSeconds; !over() && monotonic_seconds() < end;) {
      look();
      std::optional<RelayTarget> now = target(why);
      if (now) {
        const auto tries = std::count(failed.begin(), failed.end(), now->tag);
        if (tries == 0) return now;
        if (ready() && tries >= kTries) break;
        std::this_thread::sleep_for(std::chrono::milliseconds(300));
        if (ready()) return now;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(300));
    }
    if (why.empty()) why = "the server does not answer, or is busy";
    return std::nullopt;
  }

  std::optional<RelayTarget> target(std::string& why) {
    const std::lock_guard lock(mutex_);
    const bool reachable =
        job_.state == "ready" || job_.state == "draining" || job_.state == "loading" || job_.state == "unconfirmed";
    if (!reachable || job_.url.empty()) {
      why = fmt::format("job {} is {}: {}", job_.id, job_.state, job_.detail);
      return std::nullopt;
    }
    try {
      RelayTarget out;
      if (!job_.key_file.empty()) out.key = read_key(job_.key_file);
      out.url = way_.to(job_);
      out.tag = std::hash<std::string>()(job_.id + job_.url);
      return out;
    } catch (const Error& error) {
      why = error.what();
      return std::nullopt;
    }
  }

 private:
  const ConnectOptions& options_;
  const std::filesystem::path home_;
  std::mutex look_mutex_, mutex_;
  std::string name_;  // job or service
  JobView job_;
  QueueWatch queue_{run_command};
  Way way_;
};

int run(const ConnectOptions& options) {
  Follower follower(options);
  const std::string first = follower.look();
  follower.require_going();
  RelayOptions relay_options;
  relay_options.port = options.port;
  relay_options.unix_socket = options.bind_socket;
  relay_options.own_user = true;
  std::atomic<bool> listening{false};
  // Nothing here has to be brought to an end: ssh leaves with its parent.
  const SignalWatch watch([&](int, int) {
    if (listening && !options.bind_socket.empty()) ::unlink(options.bind_socket.c_str());
    ::_exit(0);
  });
  Relay relay(
      relay_options,
      [&](const RelayRequest& request, std::string& why) -> std::optional<RelayTarget> {
        if (request.attempt == 0) return follower.target(why);
        return follower.another(request.failed, why);
      },
      [](const RelayTarget&, RelayOutcome) {});
  listening = true;
  const std::string base =
      options.bind_socket.empty() ? fmt::format("http://127.0.0.1:{}", relay.port()) : options.bind_socket;
  log_info(first);
  fmt::print("{}\n", base);
  if (options.bind_socket.empty()) {
    fmt::print(
        "OpenAI clients:  export OPENAI_BASE_URL={}/v1 OPENAI_API_KEY=none\nbrowser:         {}/\nOllama clients:  "
        "export OLLAMA_HOST={}\n",
        base, base, base);
  }
  std::fflush(stdout);
  do {
    std::this_thread::sleep_for(std::chrono::duration<double>(kLookSeconds));
    try {
      const std::string news = follower.look();
      if (!news.empty()) log_info(news);
    } catch (const Error& error) {
      log_warning(error.what());
    }
  } while (!options.exit_when_over || !follower.over());
  return 0;
}

}  // namespace

void add_connect(CLI::App& app, int& exit_code) {
  const auto [verb, options] = add_verb<ConnectOptions>(
      app, "connect", "A local address for a job's server: adds its key, follows it when it moves.", exit_code, run);
  verb->add_option("JOB", options->job, "Job id, as `sluice list` shows it, or a service's name.")->required();
  CLI::Option* port =
      verb->add_option("--port", options->port, "Local port; default: a free one.")->check(CLI::Range(0, 65535));
  verb->add_option("--socket", options->bind_socket, "Listen on this Unix socket (mode 0600) instead of a port.")
      ->excludes(port);
  verb->add_option("--via", options->via,
                   "Host to tunnel through with ssh; default: straight to the node, else by ssh to it.");
  verb->add_flag("--exit", options->exit_when_over, "End when the job has ended.");
  verb->footer("Only your own processes are served: a loopback port of a login node is open to everybody there.");
}

}  // namespace sluice
