// SPDX-License-Identifier: Apache-2.0
// sluice connect JOB: a local address for a job's server, wherever it runs. Adds the key for clients that cannot send
// one, and follows the job when it moves.
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <memory>
#include <mutex>
#include <thread>

#include "app/tunnel.h"
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
constexpr double kLookSeconds = 2, kSlurmSeconds = 15;

struct ConnectOptions {
  std::string job, via, bind_socket;
  int port = 0;
  bool exit_when_over = false;
};

// The server as it is now, and the way to it.
class Follower {
 public:
  explicit Follower(const ConnectOptions& options)
      : options_(options), home_(sluice_home(process_environment())), way_(options.via) {}

  // Reads the record, and from time to time the queue. Returns what changed, in words, or nothing.
  std::string look() {
    const double now = monotonic_seconds();
    if (now >= next_queue_) {
      queue_ = read_queue(run_command);
      next_queue_ = now + kSlurmSeconds;
    }
    JobView job = find_job(reconcile(list_endpoints(home_), queue_, local_facts()), options_.job);
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
    return job_.state == "stopped" || job_.state == "lost";
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
      return out;
    } catch (const Error& error) {
      why = error.what();
      return std::nullopt;
    }
  }

 private:
  const ConnectOptions& options_;
  const std::filesystem::path home_;
  std::mutex mutex_;
  JobView job_;
  std::optional<std::vector<QueueRow>> queue_;
  double next_queue_ = 0;
  Way way_;
};

int run(const ConnectOptions& options) {
  Follower follower(options);
  const std::string first = follower.look();
  RelayOptions relay_options;
  relay_options.port = options.port;
  relay_options.unix_socket = options.bind_socket;
  relay_options.own_user = true;
  std::atomic<bool> stop{false};
  std::mutex mutex;
  std::condition_variable changed;
  const SignalWatch watch([&](int, int) {
    stop = true;
    changed.notify_all();
  });
  Relay relay(
      relay_options,
      [&](const RelayRequest& request, std::string& why) -> std::optional<RelayTarget> {
        if (request.attempt > 0) return std::nullopt;
        return follower.target(why);
      },
      [](const RelayTarget&, RelayOutcome) {});
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
  while (!stop) {
    {
      std::unique_lock lock(mutex);
      changed.wait_for(lock, std::chrono::duration<double>(kLookSeconds), [&] { return stop.load(); });
    }
    if (stop) break;
    try {
      const std::string news = follower.look();
      if (!news.empty()) log_info(news);
    } catch (const Error& error) {
      log_warning(error.what());
    }
    if (options.exit_when_over && follower.over()) break;
  }
  return 0;
}

}  // namespace

void add_connect(CLI::App& app, int& exit_code) {
  auto options = std::make_shared<ConnectOptions>();
  CLI::App* verb =
      app.add_subcommand("connect", "A local address for a job's server: adds its key, follows it when it moves.");
  verb->add_option("JOB", options->job, "Job id, as `sluice list` shows it.")->required();
  verb->add_option("--port", options->port, "Local port; default: a free one.")->check(CLI::Range(0, 65535));
  verb->add_option("--socket", options->bind_socket, "Listen on this Unix socket (mode 0600) instead of a port.");
  verb->add_option("--via", options->via,
                   "Host to tunnel through with ssh; default: straight to the node, else by ssh to it.");
  verb->add_flag("--exit", options->exit_when_over, "End when the job has ended.");
  verb->footer("Only your own processes are served: a loopback port of a login node is open to everybody there.");
  verb->callback([options, &exit_code] { exit_code = run(*options); });
}

}  // namespace sluice
