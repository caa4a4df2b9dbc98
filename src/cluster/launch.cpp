// SPDX-License-Identifier: Apache-2.0
#include "cluster/launch.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <memory>

#include "base/error.h"
#include "cluster/hostlist.h"

namespace sluice {
namespace {

constexpr int64_t kLastOrdinaryStep = 0xfffffff0;  // above: batch, interactive, extern, pending (slurm/slurm.h)

// Reads numbers from the environment and notes where each field came from.
class Reader {
 public:
  Reader(const Environment& environment, Launch& launch) : environment_(environment), launch_(launch) {}

  std::string_view text(const char* name) const {
    const char* value = environment_(name);
    return value == nullptr ? std::string_view() : std::string_view(value);
  }
  bool has(const char* name) const { return !text(name).empty(); }

  std::optional<int64_t> number(const char* name, int64_t low, int64_t high) const {
    const std::string_view value = text(name);
    if (value.empty()) return std::nullopt;
    int64_t result = 0;
    const auto [rest, error] = std::from_chars(value.data(), value.data() + value.size(), result);
    if (error != std::errc() || rest != value.data() + value.size() || result < low || result > high) {
      throw Error(fmt::format(
          "{}='{}': expected a whole number from {} to {}; it is set by the launcher, unset it if you set it by hand",
          name, value, low, high));
    }
    return result;
  }

  // The first of the variables that is set; records it as the source of `field`.
  std::optional<int> first(const char* field, std::initializer_list<const char*> names) const {
    for (const char* name : names) {
      if (const auto value = number(name, 0, 1 << 24)) {
        launch_.found[field] = name;
        return static_cast<int>(*value);
      }
    }
    return std::nullopt;
  }

 private:
  const Environment& environment_;
  Launch& launch_;
};

// SLURM_STEP_ID of an ordinary step, nothing in a batch shell, an interactive step or outside.
std::optional<int64_t> ordinary_step(const Reader& read) {
  if (!read.has("SLURM_STEP_NUM_TASKS")) return std::nullopt;
  const auto step = read.number(read.has("SLURM_STEP_ID") ? "SLURM_STEP_ID" : "SLURM_STEPID", -16, 0xffffffffLL);
  if (!step || *step < 0 || *step >= kLastOrdinaryStep) return std::nullopt;
  return step;
}

void require_pair(const char* who, const char* name, bool present, const char* fix) {
  if (!present)
    throw Error(fmt::format("{} is set but {} is not: the environment was cut down on the way; {}", who, name, fix));
}

void read_job(const Reader& read, Launch& launch) {
  const char* variable = read.has("SLURM_JOB_ID") ? "SLURM_JOB_ID" : "SLURM_JOBID";
  if (const auto job = read.number(variable, 1, 0xffffffffLL)) {
    launch.job_id = static_cast<uint32_t>(*job);
    launch.found["job_id"] = variable;
  }
  launch.node_name = read.text("SLURMD_NODENAME");
  launch.restart_count = static_cast<int>(read.number("SLURM_RESTART_COUNT", 0, 1 << 24).value_or(0));
  if (read.has("SLURM_ARRAY_TASK_ID") && read.has("SLURM_ARRAY_JOB_ID")) {
    const auto field = [&](const char* name) {
      return static_cast<uint32_t>(read.number(name, 0, 0xffffffffLL).value_or(0));
    };
    launch.array = ArrayTask{.job = field("SLURM_ARRAY_JOB_ID"),
                             .task = field("SLURM_ARRAY_TASK_ID"),
                             .count = field("SLURM_ARRAY_TASK_COUNT"),
                             .min = field("SLURM_ARRAY_TASK_MIN"),
                             .max = field("SLURM_ARRAY_TASK_MAX")};
  }
}

// In a step the step's lists pair with each other; outside, the job's. They are never mixed: TASKS_PER_NODE belongs to
// the step inside one.
void read_hosts(const Reader& read, Launch& launch) {
  const bool step = !launch.step_id.empty();
  const char* hosts = step && read.has("SLURM_STEP_NODELIST") ? "SLURM_STEP_NODELIST"
                      : read.has("SLURM_JOB_NODELIST")        ? "SLURM_JOB_NODELIST"
                                                              : "SLURM_NODELIST";
  if (!launch.job_id || !read.has(hosts)) return;
  launch.hosts = expand_hostlist(read.text(hosts));
  launch.found["hosts"] = hosts;
  if (!step || !read.has("SLURM_STEP_TASKS_PER_NODE")) return;
  launch.tasks_per_host =
      expand_task_counts(read.text("SLURM_STEP_TASKS_PER_NODE"), static_cast<int>(launch.hosts.size()));
  launch.found["tasks_per_host"] = "SLURM_STEP_TASKS_PER_NODE";
  int total = 0;
  for (const int count : launch.tasks_per_host) total += count;
  if (total != launch.world) {
    throw Error(
        fmt::format("SLURM_STEP_TASKS_PER_NODE adds up to {} tasks but SLURM_STEP_NUM_TASKS is {}: the step's "
                    "variables are from two steps; "
                    "start the ranks with one srun and do not export SLURM_STEP_* by hand",
                    total, launch.world));
  }
  if (launch.local_size || launch.node_name.empty()) return;
  const auto here = std::find(launch.hosts.begin(), launch.hosts.end(), launch.node_name);
  if (here == launch.hosts.end()) {
    throw Error(
        fmt::format("this is node {}, which is not in the step's node list {}: the step's variables were inherited "
                    "from another job; "
                    "submit from a shell outside it, or start the ranks with srun",
                    launch.node_name, read.text(hosts)));
  }
  launch.local_size = launch.tasks_per_host[static_cast<size_t>(here - launch.hosts.begin())];
  launch.found["local_size"] = "SLURM_STEP_TASKS_PER_NODE";
}

void read_ompi(const Reader& read, Launch& launch) {
  launch.launcher = Launcher::kOmpi;
  launch.rank = *read.first("rank", {"OMPI_COMM_WORLD_RANK"});
  const auto world = read.first("world", {"OMPI_COMM_WORLD_SIZE"});
  require_pair("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", world.has_value(), "start the ranks with mpirun");
  launch.world = *world;
  launch.local_rank = read.first("local_rank", {"OMPI_COMM_WORLD_LOCAL_RANK"}).value_or(0);
  launch.local_size = read.first("local_size", {"OMPI_COMM_WORLD_LOCAL_SIZE"});
  launch.mpi_type = "mpirun";
  if (const auto pmix = read.number("PMIX_RANK", 0, 1 << 24); pmix && *pmix != launch.rank) {
    throw Error(fmt::format(
        "OMPI_COMM_WORLD_RANK is {} but PMIX_RANK is {}: srun was started from inside mpirun; "
        "use one of the two, or start srun with: env -u OMPI_COMM_WORLD_RANK -u OMPI_COMM_WORLD_SIZE srun ...",
        launch.rank, *pmix));
  }
}

// Slurm's PMIx namespace names its job and step. One of another step came along when sbatch or srun was called inside
// that step.
bool stale_pmix(const Reader& read, const Launch& launch, std::optional<int64_t> step) {
  const std::string_view space = read.text("PMIX_NAMESPACE");
  return space.starts_with("slurm.pmix.") &&
         (!step || space != fmt::format("slurm.pmix.{}.{}", launch.job_id.value_or(0), *step));
}

// PMIx carries no world size in the environment: under srun the step has it.
void read_pmix(const Reader& read, std::optional<int64_t> step, Launch& launch) {
  const std::string space(read.text("PMIX_NAMESPACE"));
  require_pair("PMIX_RANK", "PMIX_NAMESPACE", !space.empty(), "start the ranks with srun --mpi=pmix or mpirun");
  launch.launcher = Launcher::kPmix;
  launch.mpi_type = "pmix";
  launch.rank = *read.first("rank", {"PMIX_RANK"});
  if (!step) {
    throw Error(
        fmt::format("PMIX_RANK is {} (namespace {}) but nothing says how many ranks there are; start the ranks with "
                    "srun --mpi=pmix or with mpirun, "
                    "or for a single process run: env -u PMIX_RANK -u PMIX_NAMESPACE sluice ...",
                    launch.rank, space));
  }
  launch.world = read.first("world", {"SLURM_STEP_NUM_TASKS"}).value_or(1);
  launch.local_rank = read.first("local_rank", {"SLURM_LOCALID"}).value_or(0);
  if (const auto task = read.number("SLURM_PROCID", 0, 1 << 24); task && *task != launch.rank) {
    throw Error(fmt::format(
        "PMIX_RANK is {} but SLURM_PROCID is {}: one of them was inherited; start the ranks with one srun --mpi=pmix",
        launch.rank, *task));
  }
}

void read_pmi(const Reader& read, Launch& launch) {
  launch.launcher = Launcher::kPmi;
  launch.mpi_type = "pmi";
  const char* fix = "start the ranks with srun --mpi=pmi2 or the MPI library's own launcher";
  launch.rank = *read.first("rank", {"PMI_RANK", "PALS_RANKID", "MV2_COMM_WORLD_RANK"});
  const auto world = read.first("world", {"PMI_SIZE", "MV2_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS"});
  require_pair(launch.found["rank"].c_str(), "PMI_SIZE", world.has_value(), fix);
  launch.world = *world;
  launch.local_rank = read.first("local_rank", {"PMI_LOCAL_RANK", "PALS_LOCAL_RANKID", "MPI_LOCALRANKID",
                                                "MV2_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID"})
                          .value_or(0);
  launch.local_size = read.first("local_size", {"PMI_LOCAL_SIZE", "MPI_LOCALNRANKS", "MV2_COMM_WORLD_LOCAL_SIZE"});
}

void read_slurm(const Reader& read, Launch& launch) {
  launch.launcher = Launcher::kSlurm;
  const auto rank = read.first("rank", {"SLURM_PROCID"});
  require_pair("SLURM_STEP_NUM_TASKS", "SLURM_PROCID", rank.has_value(),
               "start the ranks with srun and without --export lists");
  launch.rank = *rank;
  launch.world = *read.first("world", {"SLURM_STEP_NUM_TASKS"});
  launch.local_rank = read.first("local_rank", {"SLURM_LOCALID"}).value_or(0);
  launch.mpi_type = read.text("SLURM_MPI_TYPE");
}

void read_torchrun(const Reader& read, Launch& launch) {
  launch.launcher = Launcher::kTorchrun;
  launch.rank = *read.first("rank", {"RANK"});
  launch.world = *read.first("world", {"WORLD_SIZE"});
  launch.local_rank = read.first("local_rank", {"LOCAL_RANK"}).value_or(0);
  launch.local_size = read.first("local_size", {"LOCAL_WORLD_SIZE"});
}

// Equal on all ranks of one run and different between runs.
std::string make_run_id(const Reader& read, const Launch& launch) {
  std::string job = launch.job_id ? std::to_string(*launch.job_id) : "";
  if (!launch.step_id.empty()) return fmt::format("{}.{}", job, launch.step_id);
  std::string own;
  switch (launch.launcher) {
    case Launcher::kOmpi:
    case Launcher::kPmix:
      own = read.text("PMIX_NAMESPACE");
      break;
    case Launcher::kPmi:
      own = read.text(read.has("PMI_JOBID") ? "PMI_JOBID" : "PALS_APID");
      break;
    case Launcher::kTorchrun:
      own = fmt::format("{}-{}", read.text("TORCHELASTIC_RUN_ID"), read.text("MASTER_PORT"));
      break;
    default:
      return job;
  }
  // Namespaces hold '@' and '/' under some launchers; the id is also a file name.
  for (char& c : own) {
    if (!std::isalnum(static_cast<unsigned char>(c)) && c != '.' && c != '-' && c != '_') c = '-';
  }
  const std::string name = fmt::format("{}-{}", launcher_name(launch.launcher), own);
  return job.empty() ? name : fmt::format("{}.{}", job, name);
}

void warn_alone(const Reader& read, Launch& launch) {
  if (launch.launcher != Launcher::kSingle || !launch.job_id) return;
  const auto tasks = read.number("SLURM_NTASKS", 1, 1 << 24);
  if (tasks && *tasks > 1) {
    launch.warnings.push_back(fmt::format(
        "this job has {} tasks but this process was started without srun: it is one rank and uses one of them; "
        "start it with srun to use all",
        *tasks));
  }
}

}  // namespace

Environment process_environment() {
  return [](const char* name) -> const char* { return std::getenv(name); };
}

Environment map_environment(std::map<std::string, std::string> values) {
  const auto shared = std::make_shared<std::map<std::string, std::string, std::less<>>>(values.begin(), values.end());
  return [shared](const char* name) -> const char* {
    const auto found = shared->find(std::string_view(name));
    return found == shared->end() ? nullptr : found->second.c_str();
  };
}

const char* launcher_name(Launcher launcher) {
  switch (launcher) {
    case Launcher::kSingle:
      return "single";
    case Launcher::kOmpi:
      return "ompi";
    case Launcher::kPmix:
      return "pmix";
    case Launcher::kPmi:
      return "pmi";
    case Launcher::kSlurm:
      return "slurm";
    case Launcher::kTorchrun:
      return "torchrun";
  }
  fatal("unknown launcher");
}

Launch read_launch(const Environment& environment) {
  Launch launch;
  const Reader read(environment, launch);
  read_job(read, launch);
  const auto step = ordinary_step(read);
  const bool stale = read.has("PMIX_RANK") && stale_pmix(read, launch, step);
  if (stale) {
    launch.warnings.push_back(fmt::format("PMIX_NAMESPACE {} belongs to another step and is ignored; MPI is off",
                                          read.text("PMIX_NAMESPACE")));
  }

  if (read.has("OMPI_COMM_WORLD_RANK")) {
    read_ompi(read, launch);
  } else if (read.has("PMIX_RANK") && !stale) {
    read_pmix(read, step, launch);
  } else if (read.has("PMI_RANK") || read.has("PALS_RANKID") || read.has("MV2_COMM_WORLD_RANK")) {
    read_pmi(read, launch);
  } else if (step) {
    read_slurm(read, launch);
  } else if (read.has("RANK") && read.has("WORLD_SIZE")) {
    read_torchrun(read, launch);
  }
  launch.mpi_expected =
      launch.launcher == Launcher::kOmpi || launch.launcher == Launcher::kPmix || launch.launcher == Launcher::kPmi;

  // Under mpirun the step is the daemon's: its node list, task counts and rank say nothing about these ranks.
  if (step && launch.job_id && (launch.launcher == Launcher::kPmix || launch.launcher == Launcher::kSlurm))
    launch.step_id = std::to_string(*step);
  if (launch.world < 1 || launch.rank >= launch.world) {
    throw Error(fmt::format(
        "{} says rank {} and {} says {} ranks: the rank must be below the count; the variables are from two launches",
        launch.found["rank"], launch.rank, launch.found["world"], launch.world));
  }
  if (launch.launcher == Launcher::kSlurm && read.has("TORCHELASTIC_RUN_ID") &&
      read.number("WORLD_SIZE", 1, 1 << 24).value_or(launch.world) != launch.world) {
    throw Error(
        fmt::format("torchrun started this process with WORLD_SIZE={} inside a Slurm step of {} tasks; start sluice "
                    "with srun alone, one task per rank",
                    read.text("WORLD_SIZE"), launch.world));
  }
  read_hosts(read, launch);
  if (launch.local_size && launch.local_rank >= *launch.local_size) {
    throw Error(
        fmt::format("{} is {} but {} says {} ranks on this host: the variables are from two launches; start the ranks "
                    "with one srun or mpirun",
                    launch.found["local_rank"], launch.local_rank, launch.found["local_size"], *launch.local_size));
  }
  launch.run_id = make_run_id(read, launch);
  warn_alone(read, launch);
  return launch;
}

std::string pmix_disagreement(const Environment& environment) {
  const char *server = environment("PMIX_SECURITY_MODE"), *own = environment("PMIX_MCA_psec");
  if (server == nullptr || own == nullptr || *server == '\0' || *own == '\0') return {};
  const bool excludes = *own == '^';
  const std::string listed = fmt::format(",{},", own + (excludes ? 1 : 0));
  std::string modes = server;
  for (size_t at = 0; at < modes.size();) {
    const size_t end = std::min(modes.find(',', at), modes.size());
    if ((listed.find("," + modes.substr(at, end - at) + ",") != std::string::npos) != excludes) return {};
    at = end + 1;
  }
  return fmt::format(
      "PMIX_MCA_psec={}, but this site's PMIx asks for {}, and Open MPI would end the process; set it to that, or "
      "insist "
      "with --comm mpi",
      own, modes);
}

void check_mpi_agrees(const Launch& launch, int mpi_rank, int mpi_size) {
  if (mpi_rank == launch.rank && mpi_size == launch.world) return;
  if (mpi_size == 1 && launch.world > 1) {
    throw Error(
        fmt::format("MPI started {} separate processes of one rank each instead of one world of {} (launcher {}, "
                    "SLURM_MPI_TYPE '{}'): the MPI library did "
                    "not find its launcher; use srun --mpi=pmix if `srun --mpi=list` shows it, or mpirun from the same "
                    "MPI installation",
                    launch.world, launch.world, launcher_name(launch.launcher), launch.mpi_type));
  }
  const auto source = launch.found.find("rank");
  throw Error(fmt::format(
      "MPI says rank {} of {} but {} says rank {} of {}; start all ranks with one srun --mpi=pmix or one mpirun",
      mpi_rank, mpi_size, source == launch.found.end() ? "the environment" : source->second, launch.rank,
      launch.world));
}

std::string record_id(const Launch& launch, int64_t pid) {
  if (launch.job_id) {
    if (launch.step_id.empty() || launch.step_id == "0") return std::to_string(*launch.job_id);
    return fmt::format("{}.{}", *launch.job_id, launch.step_id);
  }
  return launch.run_id.empty() ? fmt::format("local-{}", pid) : launch.run_id;
}

std::string array_task(const Launch& launch) {
  return launch.array ? fmt::format("{}_{}", launch.array->job, launch.array->task) : std::string();
}

bool is_launcher_variable(std::string_view name) {
  for (const std::string_view prefix :
       {"PMI_", "PMI2_", "PMIX_", "OMPI_", "PRTE_", "PALS_", "MV2_COMM_WORLD_", "SLURM_STEP_", "SLURM_STEPID",
        "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_GTIDS", "SLURM_TASK_PID", "SLURM_SRUN_", "MPI_LOCAL"}) {
    if (name.starts_with(prefix)) return true;
  }
  return name == "RANK" || name == "WORLD_SIZE" || name == "LOCAL_RANK" || name == "LOCAL_WORLD_SIZE";
}

}  // namespace sluice
