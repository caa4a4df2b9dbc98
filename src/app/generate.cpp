// SPDX-License-Identifier: Apache-2.0
// sluice generate: offline generation over a prompt file.
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <csignal>

#include "api/metrics.h"
#include "app/address.h"
#include "app/idle_options.h"
#include "app/model_facts.h"
#include "app/options.h"
#include "app/route_answerer.h"
#include "app/verb.h"
#include "app/verbs.h"
#include "app/world.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "batch/progress.h"
#include "batch/run.h"
#include "cluster/command.h"
#include "cluster/devices.h"
#include "cluster/endpoint.h"
#include "cluster/signals.h"
#include "launch/jobs.h"

namespace sluice {
namespace {

constexpr int64_t kConnections = 32;
constexpr int kExitErrors = 4;  // every prompt has its line; some carry an error

struct GenerateOptions {
  Settings settings = make_settings({Topic::kModel, Topic::kRun, Topic::kSampling});
  std::string prompts, output, url, key_file, names;
  int64_t connections = 0, chunk = 0;
  bool shared = false;
};

// Where `sluice status` looks. The run goes on where it cannot be written.
class Progress {
 public:
  Progress(const Launch& launch, const BatchOptions& batch) {
    record_.id = record_id(launch, ::getpid());
    record_.job_id = launch.job_id ? std::to_string(*launch.job_id) : "";
    record_.task = array_task(launch);
    record_.host = read_host_facts().host;
    if (const char* log = process_environment()("SLUICE_LOG")) record_.log = log;
    record_.pid = ::getpid();
    record_.prompts = std::filesystem::absolute(batch.prompts);
    record_.output = std::filesystem::absolute(batch.output);
  }
  void tell(const BatchProgress& progress) {
    record_.progress = progress;
    end("running");
  }
  void end(const char* state) {
    record_.state = state;
    record_.updated = wall_seconds();
    try {
      write_progress(sluice_home(process_environment()), record_);
    } catch (const std::exception& error) {
      log_debug(fmt::format("progress is not written: {}", error.what()));
    }
  }

 private:
  ProgressRecord record_;
};

int report(const BatchOptions& batch, const BatchReport& report) {
  if (!report.complete) {
    log_warning(
        fmt::format("{} of {} prompts are answered; run the same command again to go on", report.done, report.prompts));
    return kExitAgain;
  }
  log_info(fmt::format("{}: {} answers ({} resumed, {} with an error), {} generated tokens in {:.1f} s",
                       batch.output.string(), report.prompts, report.resumed, report.errors, report.generated_tokens,
                       report.seconds));
  return report.errors > 0 ? kExitErrors : 0;
}

int answer_all(BatchOptions batch, const Launch& launch, Answerer& answerer, const std::atomic<bool>& stop) {
  Progress progress(launch, batch);
  batch.on_progress = [&](const BatchProgress& now) { progress.tell(now); };
  try {
    const BatchReport done = run_batch(batch, answerer, stop);
    progress.end(done.complete ? "complete" : "stopped");
    return report(batch, done);
  } catch (...) {
    progress.end("failed");
    throw;
  }
}

std::string where_answers_stay(const BatchOptions& batch) {
  return batch.shared ? shared_folder(batch.output).string() : batch.output.string() + ".journal";
}

// TERM and INT of the rank that leads: while it loads there is nothing to bring to an end.
class Stop {
 public:
  explicit Stop(const BatchOptions& batch)
      : watch_([this, where = where_answers_stay(batch)](int signal, int) {
          if (!ready_) leave_start(signal, kExitAgain, "run the same command again to go on");
          if (!stop_.exchange(true))
            log_warning(fmt::format("{}: stopping; finished answers stay in {}", signal_name(signal), where));
        }) {}
  void ready() { ready_ = true; }
  const std::atomic<bool>& asked() const { return stop_; }

 private:
  std::atomic<bool> ready_{false}, stop_{false};
  SignalWatch watch_;
};

// What the routes need to answer lines of OpenAI's format.
struct Routes {
  Metrics metrics;
  Service service;
};
void fill(Routes& routes, const GenerateOptions& options, const ServedModel& model, Engine& engine,
          const World& world) {
  Service& service = routes.service;
  service.bind(engine);
  service.chat = model.chat.get();
  std::vector<std::string> names{model.name};
  const char* others = process_environment()("SERVED_MODEL_NAME");
  for (const auto& name : CLI::detail::split(options.names.empty() && others != nullptr ? others : options.names, ','))
    if (!name.empty()) names.push_back(name);
  service.model = read_model_facts(model, names, engine.info());
  service.model.device = world.on_gpu() ? "cuda" : "cpu";
  service.limits.max_best_of = service.limits.max_client_batch_size = service.limits.max_choices = 1024;
  service.limits.max_stop_sequences = 1024;
  service.limits.max_total_tokens = engine.info().limits.max_context;
  service.limits.prompt_apart = engine.info().limits.max_encoder > 0;
  service.limits.max_input_tokens =
      service.limits.prompt_apart ? engine.info().limits.max_encoder : service.limits.max_total_tokens - 1;
  service.version = SLUICE_VERSION;
  service.metrics = &routes.metrics;
}

int64_t modified(const std::filesystem::path& path) {
  struct stat status {};
  return ::stat(path.c_str(), &status) == 0 ? status.st_mtime : 0;
}

int lead(const GenerateOptions& options, const BatchOptions& batch, const ServedModel& model, World& world,
         Stop& stop) {
  const Settings& settings = options.settings;
  EngineOptions engine_options;
  engine_options.max_waiting = 2 * batch.window;
  engine_options.token_budget = settings.integer("max-batch-prefill-tokens");
  engine_options.max_batch = settings.integer("max-batch-size");
  engine_options.prefix_cache = settings.flag("prefix-cache");
  engine_options.job_seed = batch.seed;
  engine_options.broadcast = world.broadcast();
  int code = 0;
  {
    Engine engine(
        engine_options, [&world] { return world.make_executor(); }, *model.tokenizer);
    world.all_loaded();
    stop.ready();
    Routes routes;
    fill(routes, options, model, engine, world);
    {
      const auto answerer = route_answerer(routes.service, engine_answerer(engine, model.chat.get(), batch.seed),
                                           batch.seed, batch.window, modified(batch.prompts));
      code = answer_all(batch, world.launch(), *answerer, stop.asked());
    }
    engine.drain(0);
  }
  world.leave();
  return code;
}

bool is_address(const std::string& url) { return url.find(':') != std::string::npos; }

// Against a server that runs already: an address, or one of the user's jobs, wherever it is by then.
int ask(const GenerateOptions& options, BatchOptions batch, const Launch& launch,
        std::optional<StartWatch>& start_watch) {
  UrlAnswererOptions url;
  if (is_address(options.url)) {
    std::string key;
    const Url at = ServerFinder(options.url, options.key_file, "").find(key);
    url.where = [where = UrlEndpoint{at.text(), key}] { return where; };
  } else {
    const auto look = [job = options.url] {
      const auto home = sluice_home(process_environment());
      return find_job(reconcile(list_endpoints(home), read_queue(run_command), local_facts()), job);
    };
    require_going(look());
    url.where = [look] {
      const JobView view = look();
      require_going(view);
      if (view.url.empty()) throw Error(fmt::format("job {} is {}: {}", view.id, view.state, view.detail));
      return UrlEndpoint{view.url, view.key_file.empty() ? "" : read_key(view.key_file)};
    };
  }
  url.model = options.settings.text("model");
  url.connections = options.connections > 0 ? options.connections : kConnections;
  url.seed = batch.seed;
  batch.window = 2 * url.connections;
  start_watch.reset();
  Stop stop(batch);
  set_start_stage("waiting for " + options.url);
  const auto answerer = url_answerer(url);
  stop.ready();
  return answer_all(batch, launch, *answerer, stop.asked());
}

// Tasks of an array divide one prompt file among them, and so does whoever comes later.
std::optional<SharedOptions> sharing(const GenerateOptions& options, const Launch& launch) {
  std::error_code ignored;
  const bool array = launch.array && launch.array->count > 1;
  if (!options.shared && !array && !std::filesystem::exists(shared_folder(options.output), ignored))
    return std::nullopt;
  SharedOptions shared;
  shared.me = describe_owner(launch, process_environment());
  shared.chunk = options.chunk;
  if (array) {
    shared.of = launch.array->count;
    shared.first = launch.array->task - launch.array->min;
  }
  if (launch.job_id) shared.claims.run = run_command;
  return shared;
}

int nothing_to_do(const BatchOptions& batch, int64_t errors) {
  log_info(fmt::format("{} is complete already; nothing to do{}", batch.output.string(),
                       errors > 0 ? fmt::format(" ({} of its answers carry an error)", errors) : ""));
  return errors > 0 ? kExitErrors : 0;
}

// Of asking a server what belongs to a model in this process, and the other way round.
void refuse_idle(const GenerateOptions& options) {
  if (options.url.empty()) {
    if (options.connections != 0)
      throw Error("--connections belongs to --url; --max-batch-size says how many run at once here");
    if (!options.key_file.empty())
      throw Error("--key-file belongs to --url http://...: a model in this process has no key");
    return;
  }
  refuse_local_options(options.settings, options.url);
  if (!options.key_file.empty() && !is_address(options.url))
    throw Error(fmt::format("--key-file belongs to --url http://...: job {} has its key in its record", options.url));
  if (!options.names.empty())
    throw Error(
        fmt::format("--served-model-name: {} is a server, which has its names already; leave it out", options.url));
}

int run(GenerateOptions& options) {
  Settings& settings = options.settings;
  check_settings(settings);
  refuse_idle(options);
  set_log_level(parse_log_level(settings.text("log-level")));
  std::optional<StartWatch> start_watch(kExitAgain);
  BatchOptions batch;
  batch.prompts = options.prompts;
  batch.output = options.output;
  batch.defaults = default_request(settings);
  batch.seed = settings.has("seed") ? static_cast<uint64_t>(settings.integer("seed")) : 0;
  const Launch launch = read_launch(process_environment());
  const std::optional<int64_t> complete = launch.rank == 0 ? batch_is_complete(batch) : std::nullopt;
  if (complete && launch.world == 1) return nothing_to_do(batch, *complete);
  const std::string sampling =
      fmt::format("seed={} max-new-tokens={} temperature={} top-k={} top-p={} repetition-penalty={}", batch.seed,
                  settings.text("max-new-tokens"), settings.text("temperature"), settings.text("top-k"),
                  settings.text("top-p"), settings.text("repetition-penalty"));
  batch.shared = sharing(options, launch);
  if (options.chunk > 0 && !batch.shared)
    throw Error("--chunk belongs to --shared or a job array: one process alone takes prompts one by one");
  if (!options.url.empty()) {
    if (launch.rank != 0) return 0;
    if (complete) return nothing_to_do(batch, *complete);
    batch.fingerprint = fmt::format("server model={} {}", settings.text("model"), sampling);
    return ask(options, std::move(batch), launch, start_watch);
  }
  const ServedModel model = read_served_model(settings);
  batch.window = 2 * settings.integer("max-batch-size");
  const std::string& quantise = model.source.quantize;
  batch.fingerprint = fmt::format("model={} dtype={}{} {}", model.name, settings.text("dtype"),
                                  quantise.empty() ? "" : " quantize=" + quantise, sampling);
  std::optional<Stop> stop;  // other ranks end when this one does
  if (launch.rank == 0) {
    start_watch.reset();
    stop.emplace(batch);
  }
  World world(settings, model, [](const std::string&) {});
  return with_world(world, [&] {
    // Another task may finish the output while these ranks start: rank 0 decides for all.
    if (!world.leader_says("whether prompts are left", !complete)) {
      world.leave();
      return complete ? nothing_to_do(batch, *complete) : 0;
    }
    return world.leader() ? lead(options, batch, model, world, *stop) : world.work();
  });
}

}  // namespace

void add_generate(CLI::App& app, int& exit_code) {
  const auto [verb, options] = add_verb<GenerateOptions>(
      app, "generate", "Answer every prompt of a file; run again after any kill to complete it.", exit_code, run);
  verb->add_option(
          "--prompts", options->prompts,
          "Prompts: JSON lines (prompt or messages, parameters), OpenAI's batch format, or plain text [PROMPTS].")
      ->envname("PROMPTS")
      ->required();
  verb->add_option("--output", options->output, "Answers: one JSON line per prompt, in order [OUTPUT].")
      ->envname("OUTPUT")
      ->required();
  verb->add_option("--url", options->url,
                   "Ask a server that runs already: http://host:port, or a job of yours by its id [GENERATE_URL].")
      ->envname("GENERATE_URL");
  verb->add_option("--key-file", options->key_file, "With --url http://...: file that holds the server's key.");
  verb->add_option("--connections", options->connections,
                   fmt::format("With --url: requests under way at once. Default: {}.", kConnections))
      ->check(CLI::Range(1, 1024));
  verb->add_flag("--shared", options->shared,
                 "Divide the file with other processes that run the same line; tasks of a job array do so anyway.");
  verb->add_option("--chunk", options->chunk, "With --shared: prompts of one claim; 0: from the file's length.")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 30));
  verb->add_option("--served-model-name", options->names,
                   "Further names for the model in OpenAI's format, with commas [SERVED_MODEL_NAME].");
  add_flags(*verb, options->settings);
}

}  // namespace sluice
