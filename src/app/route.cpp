// SPDX-License-Identifier: Apache-2.0
// sluice route: one stable address in front of one or many servers of a model. Least loaded, prefix-affine, drops what
// does not answer, retries what had not begun to stream; may submit and end replicas.
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <thread>

#include "app/verb.h"
#include "app/verbs.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "client/relay.h"
#include "cluster/devices.h"
#include "cluster/endpoint.h"
#include "cluster/signals.h"
#include "launch/backends.h"
#include "launch/jobs.h"

namespace sluice {
namespace {
constexpr double kProbeSeconds = 2, kWaitSeconds = 20, kScaleSeconds = 10;

struct RouteOptions {
  std::string model, host = "0.0.0.0", auth = "key", script;
  std::vector<std::string> backends;
  int port = 0;
  int64_t least = 1, most = 1, scale_up = 8;
  double idle_seconds = 600;
};

class Router {
 public:
  explicit Router(const RouteOptions& options) : options_(options), home_(sluice_home(process_environment())) {}

  std::optional<RelayTarget> choose(const RelayRequest& request, std::string& why) {
    const std::string_view prefix = prompt_prefix(request.body);
    // With all backends between two jobs a client waits a little rather than fail.
    const double end = monotonic_seconds() + (request.path == "/health" ? 0 : kWaitSeconds);
    std::vector<uint64_t> failed = request.failed;
    while (true) {
      if (const auto tag = backends_.choose(prefix, failed)) {
        const std::lock_guard lock(mutex_);
        const auto found = targets_.find(*tag);
        if (found != targets_.end()) return found->second;
      }
      if (request.path != "/health") wanted_ = true;
      if (monotonic_seconds() >= end) {
        why = backends_.all().empty() ? "no server of this model runs" : "no server of this model is ready";
        return std::nullopt;
      }
      failed.clear();  // one that was busy may be free again
      std::this_thread::sleep_for(std::chrono::milliseconds(200));
    }
  }

  void ended(const RelayTarget& target, RelayOutcome outcome) {
    backends_.ended(target.tag, outcome == RelayOutcome::kNoAnswer, monotonic_seconds());
  }

  // Finds the servers and asks each how it is.
  void look() {
    const double now = monotonic_seconds();
    std::map<std::string, std::pair<std::string, std::string>> found;  // name -> url, key
    pending_ = 0;
    for (const std::string& url : options_.backends) found[url] = {url, ""};
    if (options_.backends.empty()) {
      const std::vector<Endpoint> records = list_endpoints(home_);
      for (const JobView& job : reconcile(records, queue_.read(records, now, wall_seconds()), local_facts())) {
        if (!options_.model.empty() && !job.model.empty() && job.model != options_.model) continue;
        if (!job.server) continue;
        if (job.state == "pending" || job.state == "loading" || job.state == "moving") ++pending_;
        if (job.state != "ready" && job.state != "unconfirmed") continue;
        try {
          found[job.id] = {job.url, job.key_file.empty() ? std::string() : read_key(job.key_file)};
        } catch (const Error& error) {
          log_warning(fmt::format("{}: {}", job.id, error.what()));
        }
      }
    }
    std::vector<std::string> names;
    names.reserve(found.size());
    for (const auto& [name, where] : found) names.push_back(name);
    backends_.update(names, now);
    for (const BackendState& state : backends_.all()) {
      const auto& [url, key] = found[state.name];
      {
        const std::lock_guard lock(mutex_);
        targets_[state.tag] = {Url::parse(url), key, state.tag};
      }
      int64_t load = 0;
      const bool healthy = probe(url, key, load);
      if (healthy != state.healthy) log_info(fmt::format("{} at {} {}", state.name, url, healthy ? "is in" : "is out"));
      backends_.report(state.name, healthy, load, monotonic_seconds());
    }
    scale();
  }

  std::string table() const {
    nlohmann::json out = nlohmann::json::array();
    for (const BackendState& b : backends_.all())
      out.push_back({{"name", b.name},
                     {"healthy", b.healthy},
                     {"reported", b.reported},
                     {"in_flight", b.in_flight},
                     {"failures", b.failures}});
    return nlohmann::json{{"backends", out}, {"pending", pending_.load()}}.dump();
  }

 private:
  static bool probe(const std::string& url, const std::string& key, int64_t& load) {
    try {
      HttpClient client(Url::parse(url), key);
      client.connect_seconds = 1, client.silence_seconds = 3;
      if (client.get("/health").head.status != 200) return false;
      const ClientReply metrics = client.get("/metrics");
      for (const char* name : {"\nvllm:num_requests_running ", "\nvllm:num_requests_waiting "}) {
        const size_t at = metrics.body.find(name);
        if (at != std::string::npos)
          load += static_cast<int64_t>(std::strtod(metrics.body.c_str() + at + std::string_view(name).size(), nullptr));
      }
      return true;
    } catch (const Error&) {
      return false;
    }
  }

  void submit(const char* reason) {
    const auto said = run_command({"sbatch", "--parsable", options_.script}, 30);
    next_scale_ = monotonic_seconds() + kScaleSeconds;
    if (!said || said->exit_code != 0)
      return log_error(fmt::format("sbatch {} failed; see its message", options_.script));
    ++pending_;
    queue_.ask_again();
    log_info(fmt::format("submitted job {}: {}", said->output.substr(0, said->output.find_first_of(";\n")), reason));
  }

  void scale() {
    const double now = monotonic_seconds();
    if (options_.script.empty() || now < next_scale_) return;
    const std::vector<BackendState> all = backends_.all();
    const auto running = static_cast<int64_t>(all.size());
    int64_t work = 0, healthy = 0;
    for (const BackendState& b : all) work += std::max(b.reported, b.in_flight), healthy += b.healthy;
    if (running + pending_ < options_.least) return submit("fewer than --min");
    if (wanted_.exchange(false) && running + pending_ == 0) return submit("a request waits and no server runs");
    if (pending_ == 0 && running < options_.most && healthy > 0 && work > options_.scale_up * healthy)
      return submit("more work than --scale-up each");
    if (running + pending_ <= options_.least) return;
    for (const BackendState& b : all) {
      if (b.idle_since == 0 || now - b.idle_since < options_.idle_seconds || b.name.find('-') != std::string::npos)
        continue;
      log_info(fmt::format("{} has been idle for {:.0f} s: ending it", b.name, now - b.idle_since));
      run_command({"scancel", "--batch", "--signal=TERM", base_id(b.name)}, 20);
      next_scale_ = now + kScaleSeconds;
      return;
    }
  }

  const RouteOptions& options_;
  const std::filesystem::path home_;
  Backends backends_;
  std::mutex mutex_;
  std::map<uint64_t, RelayTarget> targets_;
  QueueWatch queue_{run_command};
  std::atomic<int64_t> pending_{0};
  std::atomic<bool> wanted_{false};  // a request has found no server
  double next_scale_ = 0;
};

int run(const RouteOptions& options) {
  if (options.auth != "key" && options.auth != "none")
    throw Error(fmt::format("--auth '{}': expected key or none", options.auth));
  if (options.most < options.least)
    throw Error(fmt::format("--max {} is less than --min {}", options.most, options.least));
  const std::filesystem::path home = sluice_home(process_environment());
  for (const std::string& url : options.backends) Url::parse(url);
  Router router(options);
  RelayOptions relay_options;
  relay_options.host = options.host;
  relay_options.port = options.port;
  Endpoint endpoint;
  endpoint.id = fmt::format("route-{}", options.port > 0 ? options.port : static_cast<int>(::getpid()));
  if (options.auth == "key") {
    endpoint.key_file = make_key(home, endpoint.id, true).string();
    relay_options.key = read_key(endpoint.key_file);
  }
  // Nothing here has to be brought to an end. A name that was made up for this process has no successor.
  const SignalWatch watch([&](int, int) {
    if (options.port == 0 && !endpoint.key_file.empty()) ::unlink(endpoint.key_file.c_str());
    ::_exit(0);
  });
  Relay relay(
      relay_options, [&](const RelayRequest& request, std::string& why) { return router.choose(request, why); },
      [&](const RelayTarget& target, RelayOutcome outcome) { router.ended(target, outcome); },
      [&](std::string_view method, std::string_view path) -> std::optional<std::string> {
        if (method == "GET" && path == "/route/backends") return router.table();
        return std::nullopt;
      });
  const std::string url = fmt::format("http://{}:{}", read_host_facts().host, relay.port());
  log_info(fmt::format("routing {} at {}", options.model.empty() ? "all models" : options.model, url));
  fmt::print("{}\n", url);
  if (!endpoint.key_file.empty()) fmt::print("key file: {}\n", endpoint.key_file);
  fmt::print("OpenAI clients: export OPENAI_BASE_URL={}/v1{}\n", url,
             endpoint.key_file.empty() ? "" : fmt::format(" OPENAI_API_KEY=$(cat {})", endpoint.key_file));
  std::fflush(stdout);
  while (true) {
    try {
      router.look();
    } catch (const Error& error) {
      log_warning(error.what());
    }
    std::this_thread::sleep_for(std::chrono::duration<double>(kProbeSeconds));
  }
}

}  // namespace

void add_route(CLI::App& app, int& exit_code) {
  const auto [verb, options] = add_verb<RouteOptions>(
      app, "route", "One stable address in front of one or many servers of a model.", exit_code, run);
  CLI::Option* model =
      verb->add_option("--model", options->model, "Only servers of this model; default: all of yours.");
  CLI::Option* backends = verb->add_option("--backend", options->backends,
                                           "A server's address, instead of those of your jobs; may be repeated.")
                              ->excludes(model);
  verb->add_option("--host", options->host, "Address to listen on.")->capture_default_str();
  verb->add_option("--port", options->port, "Port; default: a free one.")->check(CLI::Range(0, 65535));
  verb->add_option("--auth", options->auth, "key: ask for this router's own key; none: ask for none.")
      ->capture_default_str();
  CLI::Option* script =
      verb->add_option("--script", options->script,
                       "Job script that starts one more replica; without it none is started or ended.")
          ->check(CLI::ExistingFile)
          ->excludes(backends);
  const auto of_replicas = [&, verb = verb](const char* name, auto& value, const char* help) {
    return verb->add_option(name, value, help)->needs(script)->capture_default_str();
  };
  of_replicas("--min", options->least, "Replicas to keep; 0: the first request starts one.")
      ->check(CLI::Range(0, 1000));
  of_replicas("--max", options->most, "Replicas at most.")->check(CLI::Range(1, 1000));
  of_replicas("--scale-up", options->scale_up, "Requests per replica above which another is started.")
      ->check(CLI::Range(1, 1 << 20));
  of_replicas("--idle-seconds", options->idle_seconds, "Idle time after which a replica beyond --min is ended.")
      ->check(CLI::Range(1.0, 1e9));
}

}  // namespace sluice
