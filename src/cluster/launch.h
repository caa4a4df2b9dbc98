// SPDX-License-Identifier: Apache-2.0
// Who this process is: rank, world and job as the launcher's environment says. Pure: the environment is injected.
// Order of belief: Open MPI, PMIx, PMI, an ordinary Slurm step, torchrun, single. The batch shell's SLURM_PROCID is
// never a rank.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace sluice {

// Like getenv: nullptr when unset. Settings::Environment is the same type.
using Environment = std::function<const char*(const char*)>;
Environment process_environment();  // std::getenv
Environment map_environment(
    std::map<std::string, std::string> values);  // owns its copy; used by tests and child processes

enum class Launcher { kSingle, kOmpi, kPmix, kPmi, kSlurm, kTorchrun };
const char* launcher_name(Launcher launcher);  // "single", "ompi", "pmix", "pmi", "slurm", "torchrun"

struct ArrayTask {
  uint32_t job = 0;   // SLURM_ARRAY_JOB_ID; scancel and requeue take "<job>_<task>"
  uint32_t task = 0;  // SLURM_ARRAY_TASK_ID
  uint32_t count = 0, min = 0, max = 0;
};

struct Launch {
  Launcher launcher = Launcher::kSingle;
  int rank = 0;
  int world = 1;
  int local_rank = 0;              // among the ranks of this host
  std::optional<int> local_size;   // ranks on this host, when the launcher says
  std::optional<uint32_t> job_id;  // inside a Slurm job
  std::string step_id;             // ordinary Slurm step of these ranks ("0"), empty otherwise
  std::vector<std::string>
      hosts;  // where the ranks may be, in Slurm's order: the step's list, else the job's; empty outside Slurm
  std::vector<int> tasks_per_host;  // matches hosts; empty when unknown
  std::string node_name;            // SLURMD_NODENAME, empty outside
  int restart_count = 0;            // SLURM_RESTART_COUNT: how often the job was requeued
  std::optional<ArrayTask> array;
  bool mpi_expected = false;  // an MPI or PMIx/PMI environment is there, so MPI_Init finds its peers
  std::string mpi_type;       // "mpirun", "pmix", "pmi", or SLURM_MPI_TYPE; for messages
  std::string
      run_id;  // equal on all ranks of one run, different between runs; empty for a single process outside Slurm
  std::map<std::string, std::string> found;  // field -> variable it came from: {"rank", "SLURM_PROCID"}
  std::vector<std::string> warnings;         // one line each, for rank 0 to log
};

// Throws Error with the fix when the variables are incomplete, not numbers, or contradict each other.
Launch read_launch(const Environment& environment);

// After MPI_Init: what MPI says must be what the launcher said (N silent singletons are the usual failure). Throws
// Error.
void check_mpi_agrees(const Launch& launch, int mpi_rank, int mpi_size);

// Why an MPI could not prove itself to the PMIx that started it: PMIX_MCA_psec leaves nothing of PMIX_SECURITY_MODE.
// Empty where nothing speaks against it.
std::string pmix_disagreement(const Environment& environment);

// Name of the endpoint record: "<job>", "<job>.<step>" for a later step of the same job, run_id under mpirun, else
// "local-<pid>".
std::string record_id(const Launch& launch, int64_t pid);

// "148_3" of a task of an array, else empty.
std::string array_task(const Launch& launch);

// True for a variable that a child process of a rank must not inherit (PMI*, PMIX_*, OMPI_*, PALS_*, SLURM step and
// task variables).
bool is_launcher_variable(std::string_view name);

}  // namespace sluice
