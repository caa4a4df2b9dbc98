// SPDX-License-Identifier: Apache-2.0
#include "app/world.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>

#include "app/host_groups.h"
#include "app/idle_options.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "cluster/endpoint.h"
#include "cluster/signals.h"
#include "comm/mpi.h"
#include "weights/packed.h"

namespace sluice {
namespace {

// Everything that the steps of one rank run on, made and destroyed on the thread that runs them.
class RankExecutor : public Executor {
 public:
  RankExecutor(std::unique_ptr<Backend> backend, Groups groups, const ModelSource& source,
               const std::function<ExecutorOptions(const Backend&, const ModelInfo&)>& size, LoadTimes& times)
      : backend_(std::move(backend)), groups_(std::move(groups)) {
    set_start_stage("loading " + (source.folder.empty() ? source.random_shape : source.folder.string()));
    const double started = monotonic_seconds();
    auto model = load_model(source, *backend_, groups_);
    backend_->wait_copies(backend_->mark_copies());
    times.load = monotonic_seconds() - started;
    const ExecutorOptions options = size(*backend_, model->info());
    inner_ = make_model_executor(std::move(model), *backend_, groups_, options);
    times.warm = inner_->info().warm_seconds;
    if (times.warm > 0 && groups_.world->rank() == 0)
      log_info(fmt::format("loaded in {:.2f} s, warm in {:.2f} s", times.load, times.warm));
  }
  // Ranks that all ended by the same last step leave MPI together; after a loss MPI_Finalize would wait for the dead.
  ~RankExecutor() override {
    inner_.reset();
    groups_ = {};
    if (ended_) finish_mpi();
  }
  const ExecutorInfo& info() const override { return inner_->info(); }
  void run(const Step& step, StepResult& result) override {
    inner_->run(step, result);
    ended_ = step.shutdown;
  }
  bool collect(StepResult& result) override { return inner_->collect(result); }

 private:
  std::unique_ptr<Backend> backend_;
  Groups groups_;
  std::unique_ptr<Executor> inner_;
  bool ended_ = false;
};

std::optional<int> optional_count(const Settings& settings, const char* name) {
  if (!settings.has(name)) return std::nullopt;
  return static_cast<int>(settings.integer(name));
}

// How many ranks of this host share one set of CPUs: all of them when their masks add up to more than the host has.
int ranks_sharing_cpus(const std::vector<Hello>& hellos, const Hello& mine) {
  int ranks = 0;
  long cpus = 0;
  for (const Hello& hello : hellos) {
    if (hello.place.host != mine.place.host || hello.place.boot_id != mine.place.boot_id) continue;
    ++ranks;
    cpus += hello.cpus;
  }
  return cpus > ::sysconf(_SC_NPROCESSORS_ONLN) ? ranks : 1;
}

// A rank that fails beyond repair tells the others why before it aborts.
ControlPlane* the_control = nullptr;

}  // namespace

World::World(const Settings& settings, const ServedModel& model, std::function<void(const std::string&)> on_lost)
    : settings_(settings), model_(model), launch_(read_launch(process_environment())) {
  Hello mine = describe_process(launch_);
  set_process_name(fmt::format("rank {} of {} on {}{}", launch_.rank, launch_.world, mine.place.host,
                               launch_.job_id ? fmt::format(", job {}", *launch_.job_id) : ""));
  if (leader()) {
    for (const std::string& warning : launch_.warnings) log_warning(warning);
  }
  if (!model.null) device_ = choose_rank_device(settings, launch_);
  refuse_idle_options(settings, {model.null, model.info.decoder_start >= 0, device_.cuda});
  if (device_.cuda) {
    mine.place.device_uuid = device_.device.uuid;
    mine.place.visible_devices = device_.visible;
  } else if (leader() && !device_.why_not.empty()) {
    log_info(fmt::format("computing on the CPU: {}", device_.why_not));
  }
  ControlOptions options;
  if (launch_.world > 1) options.home = sluice_home(process_environment());
  options.rendezvous = settings.text("rendezvous");
  options.formation_seconds = settings.number("formation-timeout");
  options.on_lost = [on_lost = std::move(on_lost)](const std::string& reason) {
    log_error(fmt::format("{}; leaving ({})", reason, process_name()));
    on_lost(reason);
    ::_exit(ControlOptions::kExitLost);
  };
  control_ = ControlPlane::form(options, launch_, mine);
  the_control = control_.get();
  set_fatal_hook([](std::string_view message) {
    if (the_control != nullptr) the_control->abort(message);
  });
  places_ = sluice::places(control_->hellos());
  const ModelLimits limits{static_cast<int>(model.info.n_heads), static_cast<int>(model.info.n_layers)};
  const bool across = settings.flag("tp-across-hosts");
  std::optional<int> tp = optional_count(settings, "tp"), pp = optional_count(settings, "pp");
  if (const auto packed = read_packed_layout(model.source.folder)) {
    if (!tp && !pp && packed->tp * packed->pp == launch_.world) tp = packed->tp, pp = packed->pp;
  }
  layout_ = choose_layout(ranks_per_host(places_), tp, pp, limits, across);
  const std::vector<std::string> warnings = check_rank_devices(places_, layout_.tp);
  if (leader()) {
    for (const std::string& warning : device_.warnings) log_warning(warning);
    for (const std::string& warning : warnings) log_warning(warning);
  }
  mine_ = plan_groups(layout_.tp, layout_.pp, places_, across)[static_cast<size_t>(launch_.rank)];
  local_ranks_ = ranks_sharing_cpus(control_->hellos(), mine);
}

World::~World() {
  set_fatal_hook(nullptr);
  the_control = nullptr;
}

std::unique_ptr<Executor> World::make_executor() {
  ExecutorOptions options;
  options.max_seqs = settings_.integer("max-batch-size");
  if (device_.cuda && options.max_seqs > kCudaMostSeqs) {
    throw Error(fmt::format("max-batch-size (from {}): expected at most {} on GPUs, found {}",
                            settings_.origin("max-batch-size"), kCudaMostSeqs, options.max_seqs));
  }
  options.max_rows = std::max(settings_.integer("max-batch-prefill-tokens"), options.max_seqs);
  options.block_size = settings_.integer("block-size");
  if (options.block_size % 16 != 0) {
    throw Error(fmt::format("block-size (from {}): expected a multiple of 16, found {}", settings_.origin("block-size"),
                            options.block_size));
  }
  options.grammars = model_.grammars;
  options.max_context = model_.info.max_positions;
  if (settings_.has("max-total-tokens"))
    options.max_context = settings_.integer("max-total-tokens", 2, model_.info.max_positions);
  const int64_t cache_tokens = settings_.has("max-batch-total-tokens")
                                   ? settings_.integer("max-batch-total-tokens", options.max_context, int64_t{1} << 40)
                                   : options.max_seqs * options.max_context;
  if (model_.null) {
    options.cache_bytes = static_cast<size_t>(cache_tokens);
    return make_null_executor(options, model_.info.vocab, 'x', model_.null_rate);
  }
  ModelSource source = model_.source;
  source.load_threads = load_threads(settings_, local_ranks_);
  source.experts = settings_.text("experts");
  source.quiet = !leader();
  Groups groups;
  if (!device_.cuda) {
    RankTransport made = make_host_groups(settings_, launch_, mine_, *control_, local_ranks_ == 1);
    groups = std::move(made.groups);
    transport_ = made.transport;
  }
  auto backend = make_rank_backend(settings_, device_, local_ranks_);
  backend_ = backend->describe();
  if (device_.cuda) {
    require_gpu_memory(settings_, source, model_.info, layout_, *backend);
    groups = make_cuda_groups(settings_, mine_, *control_, *backend);
    transport_ = launch_.world == 1 ? "none" : "nccl";
  }
  const bool fixed = settings_.has("max-batch-total-tokens");
  const auto size = [&](const Backend& made, const ModelInfo& info) {
    const size_t wanted = static_cast<size_t>(cache_tokens) * info.kv_bytes_per_token;
    const size_t share = made.free_bytes() / 2 / static_cast<size_t>(std::max(local_ranks_, 1));
    options.cache_bytes = fixed || device_.cuda ? wanted : std::max<size_t>(1, std::min(wanted, share));
    if (device_.cuda && !fixed) options.spare_bytes = gpu_spare_bytes(info);
    return options;
  };
  return std::make_unique<RankExecutor>(std::move(backend), std::move(groups), source, size, times_);
}

std::function<void(std::span<const std::byte>)> World::broadcast() {
  if (launch_.world == 1) return {};
  return [this](std::span<const std::byte> message) { control_->broadcast(message); };
}

int World::work() {
  {
    const auto executor = make_executor();
    all_loaded();
    run_worker(*executor, [this](std::vector<std::byte>& message) { return control_->next(message); });
  }
  if (control_->lost()) return ControlOptions::kExitLost;
  leave();
  return 0;
}

void World::all_loaded() {
  constexpr double kLongestLoad = 24 * 3600;  // a rank that dies meanwhile is noticed by its heartbeat
  set_start_stage("waiting for the other ranks to load");
  control_->barrier("loading the model", kLongestLoad);
  set_start_stage({});
}

bool World::leader_says(const char* what, bool mine) {
  constexpr double kSeconds = 60;
  set_start_stage("waiting for rank 0 to say " + std::string(what));
  return control_->all_gather(what, mine ? "1" : "0", kSeconds)[0] == "1";
}

void World::leave() { control_->leave(); }
void World::abort(const std::string& reason) noexcept { control_->abort(reason); }

int with_world(World& world, const std::function<int()>& body) {
  try {
    return body();
  } catch (const std::exception& error) {
    world.abort(error.what());
    throw;
  }
}

}  // namespace sluice
