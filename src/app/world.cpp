// SPDX-License-Identifier: Apache-2.0
#include "app/world.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>

#include "base/error.h"
#include "base/log.h"
#include "cluster/endpoint.h"
#include "comm/mpi.h"

namespace sluice {
namespace {

// Everything that the steps of one rank run on, made and destroyed on the thread that runs them.
class RankExecutor : public Executor {
 public:
  RankExecutor(std::unique_ptr<Backend> backend, Groups groups, const ModelSource& source,
               const std::function<ExecutorOptions(const Backend&, const ModelInfo&)>& size)
      : backend_(std::move(backend)), groups_(std::move(groups)) {
    auto model = load_model(source, *backend_, groups_);
    const ExecutorOptions options = size(*backend_, model->info());
    inner_ = make_model_executor(std::move(model), *backend_, groups_, options);
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
  return static_cast<int>(settings.integer(name, 1, 4096));
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

}  // namespace

World::World(const Settings& settings, const ServedModel& model, std::function<void(const std::string&)> on_lost)
    : settings_(settings), model_(model), launch_(read_launch(process_environment())) {
  const Hello mine = describe_process(launch_);
  set_process_name(fmt::format("rank {} of {} on {}{}", launch_.rank, launch_.world, mine.place.host,
                               launch_.job_id ? fmt::format(", job {}", *launch_.job_id) : ""));
  if (leader()) {
    for (const std::string& warning : launch_.warnings) log_warning(warning);
  }
  ControlOptions options;
  if (launch_.world > 1) options.home = sluice_home(process_environment());
  options.rendezvous = settings.text("rendezvous");
  options.formation_seconds = settings.number("formation-timeout", 1, 3600);
  options.on_lost = [on_lost = std::move(on_lost)](const std::string& reason) {
    log_error(fmt::format("{}; leaving ({})", reason, process_name()));
    on_lost(reason);
    ::_exit(ControlOptions::kExitLost);
  };
  control_ = ControlPlane::form(options, launch_, mine);
  places_ = sluice::places(control_->hellos());
  const ModelLimits limits{static_cast<int>(model.info.n_heads), static_cast<int>(model.info.n_layers)};
  const bool across = settings.flag("tp-across-hosts");
  layout_ = choose_layout(ranks_per_host(places_), optional_count(settings, "tp"), optional_count(settings, "pp"),
                          limits, across);
  mine_ = plan_groups(layout_.tp, layout_.pp, places_, across)[static_cast<size_t>(launch_.rank)];
  local_ranks_ = ranks_sharing_cpus(control_->hellos(), mine);
}

World::~World() = default;

std::unique_ptr<Executor> World::make_executor() {
  ExecutorOptions options;
  options.max_seqs = settings_.integer("max-batch-size", 1, 1 << 16);
  options.max_rows = std::max(settings_.integer("max-batch-prefill-tokens", 1, 1 << 20), options.max_seqs);
  options.block_size = settings_.integer("block-size", 1, 1024);
  if (options.block_size % 16 != 0) {
    throw Error(fmt::format("block-size (from {}): expected a multiple of 16, found {}", settings_.origin("block-size"),
                            options.block_size));
  }
  options.max_context = model_.info.max_positions;
  if (settings_.has("max-total-tokens"))
    options.max_context = settings_.integer("max-total-tokens", 2, model_.info.max_positions);
  const int64_t cache_tokens = settings_.has("max-batch-total-tokens")
                                   ? settings_.integer("max-batch-total-tokens", options.max_context, int64_t{1} << 40)
                                   : options.max_seqs * options.max_context;
  if (model_.null) {
    options.cache_bytes = static_cast<size_t>(cache_tokens);
    return make_null_executor(options, model_.info.vocab, 'x');
  }
  if (launch_.world > 1 && !launch_.mpi_expected) {
    throw Error(
        fmt::format("{} ranks were started without MPI, which ranks on CPUs need; start them with srun --mpi=pmix "
                    "(srun --mpi=list shows what this site has) or with mpirun",
                    launch_.world));
  }
  CpuOptions cpu;
  cpu.threads = static_cast<int>(settings_.integer("threads", 0, 4096));
  cpu.isa = settings_.text("cpu-isa");
  cpu.local_ranks = local_ranks_;
  ModelSource source = model_.source;
  source.load_threads = settings_.integer("load-threads", 1, 64);
  source.quiet = !leader();
  Groups groups =
      launch_.world == 1 ? solo_groups() : mpi_groups(launch_.rank, launch_.world, mine_.tp_ranks, mine_.pp_ranks);
  auto backend = make_cpu_backend(cpu);
  backend_ = backend->describe();
  const int sharing = std::max(local_ranks_, 1);
  const bool fixed = settings_.has("max-batch-total-tokens");
  return std::make_unique<RankExecutor>(
      std::move(backend), std::move(groups), source, [&](const Backend& made, const ModelInfo& info) {
        const size_t wanted = static_cast<size_t>(cache_tokens) * info.kv_bytes_per_token;
        const size_t share = made.free_bytes() / 2 / static_cast<size_t>(sharing);
        options.cache_bytes = fixed ? wanted : std::min(wanted, share);
        return options;
      });
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
  control_->barrier("loading the model", kLongestLoad);
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
