// SPDX-License-Identifier: Apache-2.0
#include "launch/findings.h"

#include <doctest/doctest.h>

#include <algorithm>

using namespace sluice;

namespace {
using Values = std::map<std::string, std::string>;
Environment with(Values values) { return map_environment(std::move(values)); }
// The worst verdict of a topic and its words.
const Finding& of(const Findings& findings, const char* topic) {
  const Finding* worst = nullptr;
  for (const Finding& f : findings)
    if (f.topic == topic && (worst == nullptr || f.verdict > worst->verdict)) worst = &f;
  REQUIRE(worst != nullptr);
  return *worst;
}
bool says(const Finding& f, Verdict verdict, const char* text) {
  return f.verdict == verdict && f.text.find(text) != f.text.npos && (verdict == Verdict::kOk) == f.fix.empty();
}
FolderFacts folder(const char* type, double gigabytes) {
  FolderFacts f;
  f.name = "home", f.path = "/home/me/.sluice", f.exists = f.writable = f.shared = true;
  f.type = type, f.free_bytes = gigabytes * 1e9;
  return f;
}
}  // namespace

TEST_CASE("variables that change what steps do are named with their cure") {
  CHECK(says(of(judge_environment(with({{"SLURM_EXPORT_ENV", "MODEL_ID=x"}})), "variables"), Verdict::kWarn,
             "not even PATH"));
  CHECK(
      says(of(judge_environment(with({{"SLURM_GPUS_PER_TASK", "1"}})), "variables"), Verdict::kWarn, "direct copies"));
  CHECK(says(of(judge_environment(with({{"SLURM_GPU_BIND", "per_task:1"}})), "variables"), Verdict::kWarn,
             "SLURM_GPU_BIND"));
  CHECK(says(of(judge_environment(with({})), "ranks"), Verdict::kOk, "one process"));
  CHECK(says(of(judge_environment(with({{"OMPI_COMM_WORLD_RANK", "x"}})), "ranks"), Verdict::kFail,
             "OMPI_COMM_WORLD_RANK"));
}

TEST_CASE("a step with fewer CPUs than the job asked for is noticed") {
  CHECK(says(judge_cores(8, 64, with({{"SLURM_STEP_ID", "0"}, {"SLURM_CPUS_PER_TASK", "8"}})), Verdict::kOk, "8 of"));
  CHECK(says(judge_cores(1, 64, with({{"SLURM_STEP_ID", "0"}, {"SLURM_CPUS_PER_TASK", "8"}})), Verdict::kWarn,
             "asked for 8"));
  CHECK(says(judge_cores(1, 64, with({{"SLURM_STEP_ID", "0"}})), Verdict::kWarn, "1 of"));
  CHECK(says(judge_cores(1, 1, with({})), Verdict::kOk, "1 of"));
}

TEST_CASE("GPUs that a rank could not use are told from those it can, and from none") {
  GpuFacts facts;
  CHECK(says(judge_gpus(facts, with({})), Verdict::kOk, "none here"));
  CHECK(says(judge_gpus(facts, with({{"SLURM_JOB_GPUS", "0,1"}})), Verdict::kFail, "gave GPUs 0,1"));
  facts.devices = 4, facts.driver = facts.module = true;
  CHECK(says(judge_gpus(facts, with({})), Verdict::kOk, "4 on"));
  facts.variable = true;
  CHECK(says(judge_gpus(facts, with({})), Verdict::kWarn, "hides them all"));
  facts.visible = {"MIG-a", "MIG-b"};
  CHECK(says(judge_gpus(facts, with({})), Verdict::kWarn, "cannot reach each other"));
  facts.visible = {"0", "1"};
  CHECK(says(judge_gpus(facts, with({})), Verdict::kOk, "2 visible: 0, 1"));
  CHECK(says(judge_gpus(facts, with({{"SLURM_JOB_GPUS", "2,3"}})), Verdict::kOk, "2 visible: 0, 1"));
  facts.module = false;
  CHECK(says(judge_gpus(facts, with({})), Verdict::kWarn, "sluice_cuda.so"));
  facts.driver = false;
  CHECK(says(judge_gpus(facts, with({})), Verdict::kFail, "libcuda.so.1"));
}

TEST_CASE("the kinds of MPI that srun has are read, and a site's wrong choice is refused") {
  MpiFacts facts;
  facts.listed = "MPI plugin types are...\n\tnone\n\tpmi2\n\tpmix\n", facts.by_default = "none";
  CHECK(says(of(judge_mpi(facts), "srun"), Verdict::kOk, "none  pmi2  pmix; by default none; the job scripts add"));
  facts.site = "cray_shasta";
  CHECK(says(of(judge_mpi(facts), "srun"), Verdict::kFail, "SITE_MPI=cray_shasta"));
  facts.site = "auto", facts.listed = "MPI plugin types are...\nnone\n";
  CHECK(says(of(judge_mpi(facts), "srun"), Verdict::kWarn, "none"));
  facts.listed.reset(), facts.module_error = "libmpi.so.40: not found";
  CHECK(judge_mpi(facts).size() == 1);
  facts.srun_error = "srun: fatal: no configuration\n\n";
  CHECK(of(judge_mpi(facts), "srun").text == "fatal: no configuration");
  CHECK(says(of(judge_mpi(facts), "MPI"), Verdict::kWarn, "libmpi"));
}

TEST_CASE("the network between nodes: a choice that names nothing, and a name that stands for the loopback") {
  const std::vector<Interface> two = {{"lo", "127.0.0.1", true, true, 0, false},
                                      {"eno1", "10.0.0.5", true, false, 1000, false},
                                      {"ib0", "10.1.0.5", true, false, 200000, true}};
  CHECK(says(judge_interfaces(two, "n1", {"10.0.0.5"}, with({})), Verdict::kOk, "NCCL would begin with ib0"));
  CHECK(says(judge_interfaces(two, "n1", {"127.0.1.1"}, with({})), Verdict::kWarn, "n1 stands for 127.0.1.1"));
  CHECK(says(judge_interfaces(two, "n1", {"10.0.0.5"}, with({{"NCCL_SOCKET_IFNAME", "hsn"}})), Verdict::kFail, "hsn"));
  CHECK(says(judge_interfaces(two, "n1", {"10.0.0.5"}, with({{"NCCL_SOCKET_IFNAME", "=ib"}})), Verdict::kFail, "=ib"));
  CHECK(says(judge_interfaces(two, "n1", {"10.0.0.5"}, with({{"NCCL_SOCKET_IFNAME", "eth,ib"}})), Verdict::kOk,
             "eth,ib"));
  CHECK(says(judge_interfaces({two[0]}, "n1", {}, with({})), Verdict::kWarn, "loopback"));
}

TEST_CASE("a taken port, and a machine that gives the range away") {
  PortLimits limits;
  CHECK(says(judge_ports(limits, {10148, 10149}, {10148}), Verdict::kOk, "10148 is free"));
  CHECK(says(judge_ports(limits, {10148, 10149}, {10149}), Verdict::kOk, "10149"));
  CHECK(says(judge_ports(limits, {10148}, {}), Verdict::kFail, "none of"));
  limits.ephemeral_first = 9000;
  CHECK(says(judge_ports(limits, {}, {}), Verdict::kFail, "9000"));
}

TEST_CASE("folders: room, rights, a disk that other nodes do not see, a clock that is off") {
  CHECK(says(of(judge_folder(folder("nfs4", 100)), "home"), Verdict::kOk, "100 GB free"));
  CHECK(says(of(judge_folder(folder("ext4", 100)), "home"), Verdict::kWarn, "this machine alone"));
  CHECK(says(of(judge_folder(folder("lustre", 0.001)), "home"), Verdict::kWarn, "0 GB"));
  FolderFacts f = folder("ext4", 100);
  f.seen_by_all = true;
  CHECK(of(judge_folder(f), "home").verdict == Verdict::kOk);
  f.skew = -30;
  CHECK(says(of(judge_folder(f), "clock"), Verdict::kWarn, "30 s behind"));
  f.writable = false;
  CHECK(says(of(judge_folder(f), "home"), Verdict::kFail, "cannot be written"));
  f.shared = false;
  CHECK(of(judge_folder(f), "home").verdict == Verdict::kWarn);
  f.writable = true, f.skew = 0, f.path = "/network/scratch/me/hf";
  CHECK(says(of(judge_folder(f), "home"), Verdict::kWarn, "purged"));
  f.exists = false;
  CHECK(of(judge_folder(f), "home").verdict == Verdict::kFail);
}

TEST_CASE("keys that others can read are a failure that names them") {
  CHECK(says(judge_keys({{"/k/1.key", 0600, true, false}}), Verdict::kOk, "one folder in"));
  CHECK(says(judge_keys({{"/k/1.key", 0640, true, false}, {"/k/2.key", 0600, false, false}}), Verdict::kFail,
             "/k/1.key (0640), /k/2.key (another's)"));
  CHECK(judge_keys({{"/k", 0755, true, true}, {"/k/1.key", 0600, true, false}}).fix.starts_with("chmod go= /k; "));
}

TEST_CASE("the hub may be reached, refused by a proxy, or not be there") {
  InternetFacts f;
  f.url = "https://huggingface.co", f.status = 200, f.seconds = 0.4;
  CHECK(says(judge_internet(f), Verdict::kOk, "answers in 0.4 s"));
  f.status = 403, f.proxy = "http://proxy:3128";
  CHECK(says(judge_internet(f), Verdict::kWarn, "does not let this through"));
  f.status = 0, f.error = "no answer within 3 s";
  CHECK(says(judge_internet(f), Verdict::kWarn, "no answer"));
  f.offline = true;
  CHECK(judge_internet(f).verdict == Verdict::kOk);
}

TEST_CASE("time, limits and what passes between ranks") {
  CHECK(judge_time_left(3600.0, "squeue", true).verdict == Verdict::kOk);
  CHECK(says(judge_time_left(200.0, "squeue", true), Verdict::kWarn, "3:20"));
  CHECK(judge_time_left(std::nullopt, "unknown", false).verdict == Verdict::kOk);
  LimitFacts limits;
  CHECK(judge_limits(limits, true).front().verdict == Verdict::kOk);
  limits.files = 1024, limits.locked_kb = 64;
  CHECK(judge_limits(limits, true).size() == 2);
  CHECK(judge_limits(limits, false).size() == 1);
  RankFacts ranks;
  ranks.ranks = 4, ranks.hosts = 2, ranks.transport = "MPI", ranks.gbps = 1.5, ranks.latency_us = 30;
  CHECK(says(of(judge_ranks(ranks), "between"), Verdict::kOk, "4 ranks on 2 hosts: 1.5 GB/s, 30 us"));
  ranks.gbps = 0.05, ranks.blind = {"n2"}, ranks.skew = 5;
  CHECK(of(judge_ranks(ranks), "between").verdict == Verdict::kWarn);
  CHECK(says(of(judge_ranks(ranks), "shared"), Verdict::kFail, "n2"));
  CHECK(of(judge_ranks(ranks), "clock").verdict == Verdict::kWarn);
}
