// SPDX-License-Identifier: Apache-2.0
// What `sluice doctor` thinks of a place: facts in, findings with their cure out. Pure; the facts are read elsewhere.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cluster/launch.h"
#include "cluster/port.h"

namespace sluice {

enum class Verdict { kOk, kWarn, kFail };
const char* verdict_name(Verdict verdict);  // "ok", "warn", "fail"

struct Finding {
  std::string topic;  // "cores", "MPI"
  Verdict verdict = Verdict::kOk;
  std::string text;
  std::string fix;  // what to do; empty where nothing is wrong
};
using Findings = std::vector<Finding>;

// Variables of Slurm and others that change what steps do.
Findings judge_environment(const Environment& environment);

// CPUs that this process may use, of those the job was given.
Finding judge_cores(int usable, int on_machine, const Environment& environment);

struct GpuFacts {
  std::vector<std::string> visible;     // tokens of CUDA_VISIBLE_DEVICES, or /dev/nvidia* outside a job
  bool variable = false;                // CUDA_VISIBLE_DEVICES is set
  int devices = 0;                      // /dev/nvidia[0-9]*
  bool driver = false, module = false;  // libcuda.so.1; sluice_cuda.so
};
Finding judge_gpus(const GpuFacts& facts, const Environment& environment);

struct MpiFacts {
  std::optional<std::string> listed;  // what srun --mpi=list prints; nullopt: no srun
  std::string srun_error;             // where it fails
  std::string by_default;             // MpiDefault of slurm.conf; empty: not known
  std::string module_error;           // why sluice_mpi.so cannot be used; empty: it can
  std::string site;                   // SITE_MPI
};
Findings judge_mpi(const MpiFacts& facts);

struct Interface {
  std::string name, address;
  bool up = false, loopback = false;
  int64_t mbps = 0;         // /sys/class/net/NAME/speed; 0: not known
  bool infiniband = false;  // or Slingshot's hsn
};
// `resolved`: addresses that this host's own name stands for.
Finding judge_interfaces(const std::vector<Interface>& interfaces, const std::string& host,
                         const std::vector<std::string>& resolved, const Environment& environment);

// `free_ports`: of http_ports() those that can be bound.
Finding judge_ports(const PortLimits& limits, const std::vector<uint16_t>& wanted,
                    const std::vector<uint16_t>& free_ports);

struct FolderFacts {
  std::string name, path;  // "Hugging Face cache"
  bool exists = false, writable = false;
  std::string type;          // "nfs", "lustre", "ext4", ...
  double free_bytes = 0;     // that this user may still write
  double free_files = -1;    // inodes; -1: the file system counts none
  bool shared = false;       // must be seen by all nodes
  bool seen_by_all = false;  // and was found to be
  double skew = 0;           // seconds by which its server's clock is ahead
};
Findings judge_folder(const FolderFacts& facts);
bool is_network_file_system(std::string_view type);

struct KeyFacts {
  std::string path;
  unsigned mode = 0;  // permission bits
  bool own = true, folder = false;
};
// Those that others can read or that are another's.
Finding judge_keys(const std::vector<KeyFacts>& keys);

struct InternetFacts {
  std::string url, proxy;  // proxy as the variables name it
  long status = 0;         // of the answer; 0: none
  std::string error;
  double seconds = 0;
  bool offline = false;  // HF_HUB_OFFLINE
};
Finding judge_internet(const InternetFacts& facts);

Finding judge_time_left(const std::optional<double>& seconds, const std::string& origin, bool in_job);

struct LimitFacts {
  int64_t files = -1, processes = -1, locked_kb = -1;  // soft; -1: unlimited
  int64_t files_hard = -1;
};
Findings judge_limits(const LimitFacts& facts, bool infiniband);

// Between ranks: what one sum of `bytes` takes, and of four bytes.
struct RankFacts {
  int ranks = 1, hosts = 1;
  std::string transport;           // "MPI", "NCCL"
  double gbps = 0;                 // 1 MiB and up
  double latency_us = 0;           // 0: not measured
  double skew = 0;                 // between the clocks of the hosts, seconds
  std::vector<std::string> blind;  // hosts that do not see $SLUICE_HOME
};
Findings judge_ranks(const RankFacts& facts);

}  // namespace sluice
