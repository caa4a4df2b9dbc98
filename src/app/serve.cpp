// SPDX-License-Identifier: Apache-2.0
// sluice serve: one rank of a serving job. Rank 0 answers HTTP; the others replay its steps.
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>

#include "api/origin.h"
#include "api/server.h"
#include "app/idle_options.h"
#include "app/model_facts.h"
#include "app/options.h"
#include "app/serve_report.h"
#include "app/verb.h"
#include "app/verbs.h"
#include "app/world.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "cluster/command.h"
#include "cluster/devices.h"
#include "cluster/endpoint.h"
#include "cluster/port.h"
#include "cluster/signals.h"
#include "cluster/walltime.h"
#include "launch/chain.h"
#include "launch/old_keys.h"

namespace sluice {
namespace {

struct ServeOptions {
  Settings settings = make_settings({Topic::kModel, Topic::kRun, Topic::kServer});
  std::string model;
};

// The endpoint record of this run: every change is on disk before anybody is told.
class Record {
 public:
  Record(std::filesystem::path home, Endpoint endpoint) : home_(std::move(home)), endpoint_(std::move(endpoint)) {
    write_endpoint(home_, endpoint_);
  }
  // On every path that has not said why: "stopped".
  ~Record() { set(EndpointState::kStopped, "the process ended"); }
  void set(EndpointState state, const std::string& reason) noexcept {
    const std::lock_guard lock(mutex_);
    if (endpoint_.state == EndpointState::kStopped) return;
    endpoint_.state = state;
    endpoint_.reason = reason;
    try {
      write_endpoint(home_, endpoint_);
    } catch (const std::exception& error) {
      log_error(fmt::format("the endpoint record is out of date: {}", error.what()));
    }
  }
  void set_end_time(double end_time) {
    const std::lock_guard lock(mutex_);
    endpoint_.end_time = end_time;
  }
  const Endpoint& endpoint() const { return endpoint_; }

 private:
  std::filesystem::path home_;
  std::mutex mutex_;
  Endpoint endpoint_;
};

// The file of a Unix socket goes with its server.
class SocketFile {
 public:
  explicit SocketFile(const std::string& host) : path_(host.starts_with("unix:") ? host.substr(5) : "") {}
  ~SocketFile() {
    if (listening_) ::unlink(path_.c_str());
  }
  void listening() { listening_ = !path_.empty(); }

 private:
  std::string path_;
  bool listening_ = false;
};

Limits request_limits(const Settings& settings, const ExecutorInfo& executor) {
  Limits limits;
  if (settings.has("max-total-tokens") && settings.integer("max-total-tokens") > executor.limits.max_context) {
    throw Error(fmt::format(
        "max-total-tokens (from {}): {} tokens were asked for and the cache holds {}; lower it, or raise "
        "--max-batch-total-tokens, or ask for more memory",
        settings.origin("max-total-tokens"), settings.text("max-total-tokens"), executor.limits.max_context));
  }
  limits.max_concurrent_requests = settings.integer("max-concurrent-requests");
  limits.max_best_of = settings.integer("max-best-of");
  limits.max_stop_sequences = settings.integer("max-stop-sequences");
  limits.max_top_n_tokens = settings.integer("max-top-n-tokens");
  limits.watermark_gamma = settings.number("watermark-gamma");
  limits.watermark_delta = settings.number("watermark-delta");
  limits.max_total_tokens = executor.limits.max_context;
  limits.prompt_apart = executor.limits.max_encoder > 0;
  const int64_t longest_prompt = limits.prompt_apart ? executor.limits.max_encoder : limits.max_total_tokens - 1;
  limits.max_input_tokens =
      settings.has("max-input-tokens") ? settings.integer("max-input-tokens", 1, longest_prompt) : longest_prompt;
  limits.max_batch_size = settings.integer("max-batch-size");
  limits.max_batch_total_tokens =
      executor.limits.blocks.empty() ? 0 : executor.limits.blocks[0] * executor.limits.block_size;
  return limits;
}

bool asks_for_key(const Settings& settings) { return settings.word("auth") == "key"; }

EngineOptions engine_options(const Settings& settings, World& world) {
  EngineOptions options;
  options.max_waiting = settings.integer("max-concurrent-requests");
  options.token_budget = settings.integer("max-batch-prefill-tokens");
  options.max_batch = settings.integer("max-batch-size");
  options.prefix_cache = settings.flag("prefix-cache");
  options.job_seed = settings.has("seed") ? static_cast<uint64_t>(settings.integer("seed")) : 0;
  options.broadcast = world.broadcast();
  return options;
}

// Rank 0, from the bound port to the end of the drain.
int lead(const Settings& settings, const ServedModel& model, const Launch& launch,
         std::optional<StartWatch>& start_watch) {
  const double started = monotonic_seconds();
  const std::filesystem::path home = sluice_home(process_environment());
  const bool key = asks_for_key(settings);
  const std::string id = record_id(launch, ::getpid());
  Endpoint endpoint;
  endpoint.id = id;
  endpoint.host = read_host_facts().host;
  endpoint.job_id = launch.job_id ? std::to_string(*launch.job_id) : "";
  endpoint.task = array_task(launch);
  const std::vector<std::string> names = served_names(settings, model);
  endpoint.model = names[0];
  // The jobs of a service share its key.
  const KeepPolicy keep = read_keep_policy(process_environment());
  endpoint.service = keep.service;
  if (key) {
    endpoint.key_file = keep.service.empty() ? make_key(home, id, launch.restart_count > 0).string()
                                             : make_key(home, keep.service, true).string();
  }
  if (const char* log = process_environment()("SLUICE_LOG")) endpoint.log = log;
  endpoint.pid = ::getpid();
  endpoint.start_time = wall_seconds();
  endpoint.restart_count = launch.restart_count;

  ServerOptions server_options;
  server_options.host = settings.text("host");
  const std::optional<uint16_t> fixed =
      settings.has("port") ? std::optional(static_cast<uint16_t>(settings.integer("port"))) : std::nullopt;
  for (const uint16_t port : http_ports(launch.job_id, fixed, read_port_limits())) server_options.ports.push_back(port);
  if (key) server_options.key = read_key(endpoint.key_file);
  server_options.job_id = endpoint.job_id;
  server_options.request_log = settings.text("request-log");
  server_options.log_prompts = settings.flag("log-prompts");
  server_options.origins = comma_list(settings.text("cors-allow-origin"));
  server_options.names = comma_list(settings.text("allowed-hosts"));
  server_options.names.push_back(endpoint.host);
  server_options.transport.max_body = static_cast<size_t>(settings.integer("payload-limit"));
  SocketFile socket(server_options.host);
  Server server(server_options);
  socket.listening();
  endpoint.port = server.port();
  const bool local = server_options.host.starts_with("unix:");
  endpoint.url = local ? server_options.host : fmt::format("http://{}:{}", endpoint.host, endpoint.port);
  const bool loopback =
      server_options.host == "127.0.0.1" || server_options.host == "localhost" || server_options.host == "::1" || local;
  endpoint.loopback = loopback && !local;
  if (!key && !loopback)
    log_warning(
        fmt::format("without a key (auth from {}) everybody who reaches {} can use this server: on a cluster, "
                    "every user of it; --host 127.0.0.1 or unix:/path/of.sock closes it",
                    settings.origin("auth"), endpoint.host));
  Walltime walltime(process_environment(), run_command, wall_seconds);
  endpoint.end_time = walltime.end_time().value_or(0);
  for (const std::string& old : remove_old_keys(home, run_command, local_facts()))
    log_debug(fmt::format("the key of {}, which has ended, is removed", old));
  Record record(home, endpoint);

  std::mutex mutex;
  std::condition_variable changed;
  int terminations = 0;
  bool serving = false;
  start_watch.reset();
  // USR1 drains as TERM does: srun hands it on to its tasks, and on TERM kills them.
  const SignalWatch watch([&](int signal, int) {
    const std::lock_guard lock(mutex);
    ++terminations;
    if (!serving || terminations > 2) record.set(EndpointState::kStopped, signal_name(signal));
    if (!serving) leave_start(signal, kExitAgain);
    if (terminations > 2) {
      log_warning(fmt::format("{} again: leaving at once", signal_name(signal)));
      ::_exit(kExitAgain);
    }
    changed.notify_all();
  });

  // What loading would find only at its end.
  if (settings.has("max-input-tokens") && model.info.decoder_start < 0)
    settings.integer("max-input-tokens", 1, model.info.max_positions - 1);

  try {
    World world(settings, model, [&record](const std::string& reason) { record.set(EndpointState::kStopped, reason); });
    return with_world(world, [&] {
      Service service;
      bool lost_nothing = false;
      {
        Engine engine(
            engine_options(settings, world), [&world] { return world.make_executor(); }, *model.tokenizer);
        world.all_loaded();
        service.bind(engine);
        service.chat = model.chat.get();
        service.model = read_model_facts(model, names, engine.info());
        service.model.device = world.on_gpu() ? "cuda" : "cpu";
        service.limits = request_limits(settings, engine.info());
        service.version = SLUICE_VERSION;
        service.load_seconds = world.times().load;
        service.warm_seconds = world.times().warm;
        service.ready_seconds = monotonic_seconds() - started;
        service.started = wall_seconds();
        service.metrics = &server.metrics();
        service.job_end = endpoint.end_time;
        server.ready(service);
        record.set(EndpointState::kReady, "");
        if (!keep.service.empty()) Chain(home, keep.service).point_to(id);
        const ServeReport report{settings,
                                 model,
                                 world,
                                 endpoint,
                                 engine.info(),
                                 walltime.seconds_left(),
                                 walltime.origin(),
                                 monotonic_seconds() - started};
        log_raw(start_line(report));
        const char* login = process_environment()("SLURM_SUBMIT_HOST");
        log_raw(human_block(endpoint, report.seconds_left,
                            !launch.job_id                       ? ""
                            : login != nullptr && *login != '\0' ? login
                                                                 : "LOGIN_NODE"));

        std::unique_lock lock(mutex);
        serving = true;
        changed.wait(lock, [&] { return terminations > 0; });
        lock.unlock();
        const double grace = settings.number("drain-seconds");
        log_info(fmt::format("draining: no new requests, up to {:.0f} s for {} under way", grace,
                             engine.stats().running + engine.stats().waiting));
        server.drain();
        record.set(EndpointState::kDraining, "TERM");
        lost_nothing = engine.drain(grace);
        server.stop(5);
      }
      record.set(EndpointState::kStopped, lost_nothing ? "drained" : "drained; requests were lost at the deadline");
      world.leave();
      log_info(lost_nothing ? "drained: every accepted request was answered"
                            : "drained: the deadline passed, some requests were lost");
      return lost_nothing ? 0 : 1;
    });
  } catch (const std::exception& error) {
    record.set(EndpointState::kStopped, error.what());
    throw;
  }
}

int run(ServeOptions& options) {
  Settings& settings = options.settings;
  if (!options.model.empty()) set_model(settings, options.model);
  check_settings(settings);
  set_log_level(parse_log_level(settings.text("log-level")));
  std::optional<StartWatch> start_watch(kExitAgain);
  const ServedModel model = read_served_model(settings);
  const Launch launch = read_launch(process_environment());
  // Before there is a port and a record; what depends on the device is known later.
  refuse_idle_options(settings, {model.null, model.info.decoder_start >= 0, {}});
  if (launch.rank == 0) return lead(settings, model, launch, start_watch);
  World world(settings, model, [](const std::string&) {});
  return with_world(world, [&] { return world.work(); });
}

}  // namespace

void add_serve(CLI::App& app, int& exit_code) {
  const auto [verb, options] = add_verb<ServeOptions>(
      app, "serve", "Answer HTTP from rank 0; start one process per GPU or CPU share with srun or mpirun.", exit_code,
      run);
  verb->add_option("MODEL", options->model, "As --model.");
  add_flags(*verb, options->settings);
}

}  // namespace sluice
