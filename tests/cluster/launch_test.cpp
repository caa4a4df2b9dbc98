// SPDX-License-Identifier: Apache-2.0
#include "cluster/launch.h"

#include <doctest/doctest.h>

#include "base/error.h"

using namespace sluice;

namespace {

using Values = std::map<std::string, std::string>;

Values merge(Values base, const Values& more) {
  for (const auto& [name, value] : more) base[name] = value;
  return base;
}

Launch launch_of(const Values& values) { return read_launch(map_environment(values)); }

// Task 3 of 4 on two nodes, as srun sets it (Slurm 22.05), in a job that holds a third node.
const Values kStep = {{"SLURM_JOB_ID", "123"},         {"SLURM_JOB_NODELIST", "n[1-3]"},
                      {"SLURM_NTASKS", "4"},           {"SLURM_STEP_ID", "0"},
                      {"SLURM_STEP_NUM_TASKS", "4"},   {"SLURM_STEP_NODELIST", "n[1,3]"},
                      {"SLURM_PROCID", "3"},           {"SLURM_STEP_TASKS_PER_NODE", "3,1"},
                      {"SLURM_TASKS_PER_NODE", "3,1"}, {"SLURM_LOCALID", "0"},
                      {"SLURMD_NODENAME", "n3"},       {"SLURM_NODEID", "1"},
                      {"SLURM_JOB_NUM_NODES", "3"}};
const Values kBatch = {{"SLURM_JOB_ID", "123"},  {"SLURM_JOB_NODELIST", "n[1-2]"},
                       {"SLURM_NTASKS", "4"},    {"SLURM_TASKS_PER_NODE", "2(x2)"},
                       {"SLURM_PROCID", "0"},    {"SLURM_LOCALID", "0"},
                       {"SLURM_NODEID", "0"},    {"SLURMD_NODENAME", "n1"},
                       {"ENVIRONMENT", "BATCH"}, {"CUDA_VISIBLE_DEVICES", "0,1"}};
const Values kPmix = merge(kStep, {{"PMIX_RANK", "3"}, {"PMIX_NAMESPACE", "slurm.pmix.123.0"}});
// Rank 2 of 4 under mpirun in an allocation; the Slurm step is the daemon's on node n2: one task per node.
const Values kMpirun = {{"SLURM_JOB_ID", "123"},
                        {"SLURM_JOB_NODELIST", "n[1-2]"},
                        {"SLURM_STEP_ID", "0"},
                        {"SLURM_STEP_NUM_TASKS", "1"},
                        {"SLURM_STEP_NODELIST", "n2"},
                        {"SLURM_STEP_TASKS_PER_NODE", "1"},
                        {"SLURM_PROCID", "0"},
                        {"SLURM_LOCALID", "0"},
                        {"SLURMD_NODENAME", "n2"},
                        {"OMPI_COMM_WORLD_RANK", "2"},
                        {"OMPI_COMM_WORLD_SIZE", "4"},
                        {"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
                        {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"},
                        {"PMIX_RANK", "2"},
                        {"PMIX_NAMESPACE", "3049848833"}};

}  // namespace

TEST_CASE("an empty environment is a single process") {
  const Launch launch = launch_of({});
  CHECK(launch.launcher == Launcher::kSingle);
  CHECK(launch.rank == 0);
  CHECK(launch.world == 1);
  CHECK_FALSE(launch.mpi_expected);
  CHECK_FALSE(launch.job_id);
  CHECK(launch.run_id.empty());
  CHECK(record_id(launch, 77) == "local-77");
}

TEST_CASE("a task of a plain srun step takes its rank from the step") {
  const Launch launch = launch_of(kStep);
  CHECK(launch.launcher == Launcher::kSlurm);
  CHECK(launch.rank == 3);
  CHECK(launch.world == 4);
  CHECK(launch.local_rank == 0);
  CHECK_FALSE(launch.mpi_expected);
  CHECK(launch.run_id == "123.0");
  CHECK(launch.found.at("rank") == "SLURM_PROCID");
}

TEST_CASE("in a step of some nodes the step's counts pair with the step's node list") {
  const Launch launch = launch_of(kStep);
  CHECK(launch.hosts == std::vector<std::string>{"n1", "n3"});
  CHECK(launch.tasks_per_host == std::vector<int>{3, 1});
  CHECK(launch.local_size == 1);
}

// Task 2 of `srun --het-group=0,1` over two components of two and one tasks, on the second one's node.
TEST_CASE("a joint step of a heterogeneous job has one world") {
  const Launch launch = launch_of({{"SLURM_JOB_ID", "123"},
                                   {"SLURM_HET_SIZE", "2"},
                                   {"SLURM_JOB_NODELIST", "n1"},
                                   {"SLURM_JOB_NODELIST_HET_GROUP_1", "n2"},
                                   {"SLURM_NPROCS", "1"},
                                   {"SLURM_NTASKS", "1"},
                                   {"SLURM_STEP_ID", "0"},
                                   {"SLURM_STEP_NUM_TASKS", "3"},
                                   {"SLURM_STEP_NODELIST", "n[1-2]"},
                                   {"SLURM_STEP_TASKS_PER_NODE", "2,1"},
                                   {"SLURM_PROCID", "2"},
                                   {"SLURM_LOCALID", "0"},
                                   {"SLURMD_NODENAME", "n2"}});
  CHECK(launch.world == 3);
  CHECK(launch.rank == 2);
  CHECK(launch.hosts == std::vector<std::string>{"n1", "n2"});
  CHECK(launch.local_size == 1);
}

TEST_CASE("a batch shell has SLURM_PROCID 0 and is no rank of the job's tasks") {
  const Launch launch = launch_of(kBatch);
  CHECK(launch.launcher == Launcher::kSingle);
  CHECK(launch.world == 1);
  CHECK(launch.step_id.empty());
  CHECK(launch.hosts == std::vector<std::string>{"n1", "n2"});
  CHECK(launch.tasks_per_host.empty());
  CHECK(record_id(launch, 1) == "123");
  REQUIRE(launch.warnings.size() == 1);
  CHECK(launch.warnings[0].find("4 tasks") != std::string::npos);
}

TEST_CASE("pseudo-steps are no steps, printed unsigned or negative") {
  for (const char* step : {"4294967291", "4294967290", "4294967292", "-5", "-6"}) {
    CAPTURE(step);
    const Launch launch = launch_of(
        merge(kBatch, {{"SLURM_STEP_ID", step}, {"SLURM_STEP_NUM_TASKS", "1"}, {"SLURM_STEP_NODELIST", "n1"}}));
    CHECK(launch.launcher == Launcher::kSingle);
    CHECK(launch.world == 1);
    CHECK(launch.step_id.empty());
  }
}

TEST_CASE("an interactive step keeps the job's task count, which is not a world") {
  const Launch launch =
      launch_of(merge(kBatch, {{"SLURM_STEP_ID", "4294967290"}, {"SLURM_STEP_NUM_TASKS", "1"}, {"SLURM_NTASKS", "8"}}));
  CHECK(launch.world == 1);
}

TEST_CASE("a salloc shell on the login node is a single process") {
  const Launch launch = launch_of({{"SLURM_JOB_ID", "9"}, {"SLURM_JOB_NODELIST", "n1"}, {"SLURM_NTASKS", "1"}});
  CHECK(launch.launcher == Launcher::kSingle);
  CHECK(launch.job_id == 9u);
  CHECK(launch.warnings.empty());
}

TEST_CASE("srun with PMIx expects MPI and takes the world from the step") {
  const Launch launch = launch_of(kPmix);
  CHECK(launch.launcher == Launcher::kPmix);
  CHECK(launch.rank == 3);
  CHECK(launch.world == 4);
  CHECK(launch.local_size == 1);
  CHECK(launch.mpi_expected);
  CHECK(launch.run_id == "123.0");
}

TEST_CASE("PMIx variables that came along from another step are ignored and turn MPI off") {
  Launch launch = launch_of(merge(kPmix, {{"PMIX_NAMESPACE", "slurm.pmix.99.0"}, {"PMIX_RANK", "0"}}));
  CHECK(launch.launcher == Launcher::kSlurm);
  CHECK(launch.rank == 3);
  CHECK_FALSE(launch.mpi_expected);
  CHECK(launch.warnings.size() == 1);
  launch = launch_of({{"SLURM_JOB_ID", "7"}, {"PMIX_RANK", "0"}, {"PMIX_NAMESPACE", "slurm.pmix.6.0"}});
  CHECK(launch.launcher == Launcher::kSingle);
}

TEST_CASE("PMIx and Slurm that disagree on the rank are refused") {
  CHECK_THROWS_WITH_AS(launch_of(merge(kPmix, {{"PMIX_RANK", "1"}})),
                       doctest::Contains("PMIX_RANK is 1 but SLURM_PROCID is 3"), Error);
}

TEST_CASE("a PMIx rank without a world size is refused with the launch that works") {
  CHECK_THROWS_WITH_AS(launch_of({{"PMIX_RANK", "0"}, {"PMIX_NAMESPACE", "prterun-1@1"}}),
                       doctest::Contains("srun --mpi=pmix or with mpirun"), Error);
}

TEST_CASE("under mpirun in an allocation the Slurm step is the daemon's and is not believed") {
  const Launch launch = launch_of(kMpirun);
  CHECK(launch.launcher == Launcher::kOmpi);
  CHECK(launch.rank == 2);
  CHECK(launch.world == 4);
  CHECK(launch.local_rank == 1);
  CHECK(launch.local_size == 2);
  CHECK(launch.step_id.empty());
  CHECK(launch.hosts == std::vector<std::string>{"n1", "n2"});  // the job's, not the daemon's n2
  CHECK(launch.mpi_expected);
  CHECK(launch.run_id == "123.ompi-3049848833");
  CHECK(record_id(launch, 5) == "123");
}

TEST_CASE("mpirun without Slurm gives a run id shared by its ranks") {
  const Launch launch = launch_of({{"OMPI_COMM_WORLD_RANK", "1"},
                                   {"OMPI_COMM_WORLD_SIZE", "2"},
                                   {"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
                                   {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"},
                                   {"PMIX_RANK", "1"},
                                   {"PMIX_NAMESPACE", "prterun-host/12@1"}});
  CHECK(launch.run_id == "ompi-prterun-host-12-1");
  CHECK(record_id(launch, 5) == "ompi-prterun-host-12-1");
}

TEST_CASE("srun inside mpirun is refused because the two disagree") {
  CHECK_THROWS_WITH_AS(launch_of(merge(kPmix, {{"OMPI_COMM_WORLD_RANK", "0"}, {"OMPI_COMM_WORLD_SIZE", "2"}})),
                       doctest::Contains("env -u OMPI_COMM_WORLD_RANK"), Error);
}

TEST_CASE("PMI launchers give rank and size under their several names") {
  Launch launch = launch_of({{"PMI_RANK", "1"}, {"PMI_SIZE", "2"}, {"MPI_LOCALRANKID", "1"}, {"MPI_LOCALNRANKS", "2"}});
  CHECK(launch.launcher == Launcher::kPmi);
  CHECK(launch.rank == 1);
  CHECK(launch.local_rank == 1);
  CHECK(launch.local_size == 2);
  CHECK(launch.mpi_expected);
  launch = launch_of(merge(kStep, {{"PALS_RANKID", "3"}, {"PALS_LOCAL_RANKID", "0"}}));
  CHECK(launch.launcher == Launcher::kPmi);
  CHECK(launch.world == 4);
  launch = launch_of({{"MV2_COMM_WORLD_RANK", "0"}, {"MV2_COMM_WORLD_SIZE", "1"}, {"MV2_COMM_WORLD_LOCAL_RANK", "0"}});
  CHECK(launch.world == 1);
}

TEST_CASE("torchrun's variables count only where nothing better is known") {
  Launch launch = launch_of({{"RANK", "3"},
                             {"WORLD_SIZE", "4"},
                             {"LOCAL_RANK", "1"},
                             {"LOCAL_WORLD_SIZE", "2"},
                             {"TORCHELASTIC_RUN_ID", "abc"},
                             {"MASTER_PORT", "29500"}});
  CHECK(launch.launcher == Launcher::kTorchrun);
  CHECK(launch.rank == 3);
  CHECK(launch.local_size == 2);
  CHECK(launch.run_id == "torchrun-abc-29500");
  launch =
      launch_of(merge(kStep, {{"RANK", "0"}, {"WORLD_SIZE", "1"}}));  // exported once by a batch script for all tasks
  CHECK(launch.launcher == Launcher::kSlurm);
  CHECK(launch.rank == 3);
}

TEST_CASE("torchrun inside a Slurm step of another size is refused") {
  CHECK_THROWS_WITH_AS(launch_of(merge(kStep, {{"RANK", "0"}, {"WORLD_SIZE", "8"}, {"TORCHELASTIC_RUN_ID", "x"}})),
                       doctest::Contains("start sluice with srun alone"), Error);
}

TEST_CASE("LOCAL_RANK alone means nothing: Slurm never sets it") {
  CHECK(launch_of({{"LOCAL_RANK", "3"}}).launcher == Launcher::kSingle);
}

TEST_CASE("a rank outside its world is refused") {
  CHECK_THROWS_WITH_AS(launch_of({{"OMPI_COMM_WORLD_RANK", "4"}, {"OMPI_COMM_WORLD_SIZE", "4"}}),
                       doctest::Contains("rank must be below the count"), Error);
  CHECK_THROWS_WITH_AS(launch_of({{"OMPI_COMM_WORLD_RANK", "0"}}), doctest::Contains("OMPI_COMM_WORLD_SIZE is not"),
                       Error);
}

TEST_CASE("a variable that is no number is named") {
  CHECK_THROWS_WITH_AS(launch_of(merge(kStep, {{"SLURM_PROCID", "two"}})), doctest::Contains("SLURM_PROCID='two'"),
                       Error);
}

TEST_CASE("a step that adds up to another count than it says is refused") {
  CHECK_THROWS_WITH_AS(launch_of(merge(kStep, {{"SLURM_STEP_TASKS_PER_NODE", "2,1"}})),
                       doctest::Contains("adds up to 3 tasks"), Error);
}

TEST_CASE("step variables inherited by a job on another node are refused") {
  CHECK_THROWS_WITH_AS(launch_of(merge(kStep, {{"SLURMD_NODENAME", "n2"}})),
                       doctest::Contains("not in the step's node list"), Error);
}

TEST_CASE("an array task keeps both ids, and job ids are 32-bit unsigned") {
  const Launch launch = launch_of({{"SLURM_JOB_ID", "4227858433"},
                                   {"SLURM_JOB_NODELIST", "n1"},
                                   {"SLURM_ARRAY_JOB_ID", "4227858430"},
                                   {"SLURM_ARRAY_TASK_ID", "3"},
                                   {"SLURM_ARRAY_TASK_COUNT", "8"},
                                   {"SLURM_ARRAY_TASK_MIN", "0"},
                                   {"SLURM_ARRAY_TASK_MAX", "7"}});
  CHECK(launch.job_id == 4227858433u);
  REQUIRE(launch.array);
  CHECK(launch.array->job == 4227858430u);
  CHECK(launch.array->task == 3);
  CHECK(launch.array->count == 8);
}

TEST_CASE("a requeued job counts its restarts and a later step has a record of its own") {
  const Launch launch = launch_of(merge(kStep, {{"SLURM_RESTART_COUNT", "2"}, {"SLURM_STEP_ID", "1"}}));
  CHECK(launch.restart_count == 2);
  CHECK(record_id(launch, 5) == "123.1");
}

TEST_CASE("MPI singletons are named with the launch that works") {
  const Launch launch = launch_of(kStep);
  CHECK_NOTHROW(check_mpi_agrees(launch, 3, 4));
  CHECK_THROWS_WITH_AS(check_mpi_agrees(launch, 0, 1), doctest::Contains("4 separate processes"), Error);
  CHECK_THROWS_WITH_AS(check_mpi_agrees(launch, 0, 1), doctest::Contains("srun --mpi=pmix"), Error);
  CHECK_THROWS_WITH_AS(check_mpi_agrees(launch, 2, 4),
                       doctest::Contains("MPI says rank 2 of 4 but SLURM_PROCID says rank 3 of 4"), Error);
}

TEST_CASE("a PMIx that would not believe MPI is noticed before MPI ends the process") {
  const auto words = [](const char* server, const char* own) {
    return pmix_disagreement([=](const char* name) -> const char* {
      return std::string_view(name) == "PMIX_SECURITY_MODE" ? server
             : std::string_view(name) == "PMIX_MCA_psec"    ? own
                                                            : nullptr;
    });
  };
  CHECK(words("native", "munge").starts_with("PMIX_MCA_psec=munge, but this site's PMIx asks for native"));
  CHECK_FALSE(words("munge,native", "^munge,native").empty());
  for (const auto& [server, own] : {std::pair<const char*, const char*>{"native", "native"},
                                    {"munge,native", "native,none"},
                                    {"munge,native", "^munge"},
                                    {"native", nullptr},
                                    {nullptr, "munge"},
                                    {"native", ""}})
    CHECK(words(server, own).empty());
}

TEST_CASE("a child process inherits the job but not the rank") {
  for (const char* name : {"PMI_FD", "PMIX_RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID", "SLURM_STEP_ID",
                           "SLURM_STEPID", "SLURM_LOCALID", "RANK"}) {
    CAPTURE(name);
    CHECK(is_launcher_variable(name));
  }
  for (const char* name : {"SLURM_JOB_ID", "SLURM_CONF", "PATH", "SLURM_RESTART_COUNT", "RANKS"}) {
    CAPTURE(name);
    CHECK_FALSE(is_launcher_variable(name));
  }
}
