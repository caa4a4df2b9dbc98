// SPDX-License-Identifier: Apache-2.0
#include "launch/findings.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "cluster/placement.h"
#include "cluster/walltime.h"

namespace sluice {
namespace {
constexpr double kGb = 1e9;

std::string value(const Environment& environment, const char* name) {
  const char* text = environment(name);
  return text == nullptr ? std::string() : text;
}

Finding ok(std::string topic, std::string text) { return {std::move(topic), Verdict::kOk, std::move(text), {}}; }
Finding warn(std::string topic, std::string text, std::string fix) {
  return {std::move(topic), Verdict::kWarn, std::move(text), std::move(fix)};
}
Finding bad(std::string topic, std::string text, std::string fix) {
  return {std::move(topic), Verdict::kFail, std::move(text), std::move(fix)};
}
}  // namespace

const char* verdict_name(Verdict verdict) {
  constexpr const char* kNames[] = {"ok", "warn", "fail"};
  return kNames[static_cast<int>(verdict)];
}

Findings judge_environment(const Environment& environment) {
  Findings out;
  const std::string exported = value(environment, "SLURM_EXPORT_ENV");
  if (!exported.empty() && exported != "ALL")
    out.push_back(warn("variables",
                       fmt::format("SLURM_EXPORT_ENV={}: srun hands steps nothing else, not even PATH", exported),
                       "export SLURM_EXPORT_ENV=ALL (the job scripts do so), or submit with --export=ALL,..."));
  if (const std::string per_task = value(environment, "SLURM_GPUS_PER_TASK"),
      bind = value(environment, "SLURM_GPU_BIND");
      !per_task.empty() || bind.find("per_task") != bind.npos || bind.find("single") != bind.npos) {
    out.push_back(warn("variables",
                       fmt::format("{} hides the GPUs of a rank's neighbours, and with them direct copies",
                                   per_task.empty() ? "SLURM_GPU_BIND=" + bind : "SLURM_GPUS_PER_TASK=" + per_task),
                       "ask with --gpus-per-node, or start steps with --gpu-bind=none (slurm/serve.sh does so)"));
  }
  if (const std::string order = value(environment, "CUDA_DEVICE_ORDER"); !order.empty() && order != "PCI_BUS_ID")
    out.push_back(warn("variables", fmt::format("CUDA_DEVICE_ORDER={} numbers GPUs otherwise than nvidia-smi", order),
                       "export CUDA_DEVICE_ORDER=PCI_BUS_ID"));
  try {
    const Launch launch = read_launch(environment);
    std::string text = launch.launcher == Launcher::kSingle ? "one process"
                                                            : fmt::format("rank {} of {} by {}", launch.rank,
                                                                          launch.world, launcher_name(launch.launcher));
    if (launch.job_id)
      text += fmt::format(", job {}{}{}", *launch.job_id, launch.step_id.empty() ? "" : " step ", launch.step_id);
    if (launch.restart_count > 0) text += fmt::format(", requeued {} times", launch.restart_count);
    out.push_back(ok("ranks", text));
    for (const std::string& warning : launch.warnings)
      out.push_back(warn("ranks", warning, "see docs/slurm.md, traps"));
  } catch (const Error& error) {
    out.push_back(bad("ranks", error.what(), "start this as a task of srun or mpirun, or from a clean shell"));
  }
  return out;
}

Finding judge_cores(int usable, int on_machine, const Environment& environment) {
  const std::string per_task = value(environment, "SLURM_CPUS_PER_TASK"), step = value(environment, "SLURM_STEP_ID");
  const std::string text = fmt::format("{} of the machine's {} CPUs may be used", usable, on_machine);
  const int wanted = std::atoi(per_task.c_str());
  if (!step.empty() && wanted > usable)
    return warn("cores", fmt::format("{}, and the job asked for {} per task", text, wanted),
                fmt::format("srun of some versions forgets -c: srun --cpus-per-task={}", wanted));
  if (!step.empty() && wanted == 0 && usable == 1 && on_machine > 1)
    return warn("cores", text, "ask for more: --cpus-per-task=8");
  return ok("cores", text);
}

Finding judge_gpus(const GpuFacts& facts, const Environment& environment) {
  const std::string asked = value(environment, "SLURM_JOB_GPUS") + value(environment, "SLURM_STEP_GPUS");
  if (facts.visible.empty() && facts.devices == 0)
    return asked.empty() ? ok("GPUs", "none here: ranks compute on CPUs")
                         : bad("GPUs", fmt::format("Slurm gave GPUs {} and no device is here", asked),
                               "report this node to the site");
  const std::string text = facts.variable
                               ? fmt::format("{} visible: {}", facts.visible.size(), fmt::join(facts.visible, ", "))
                               : fmt::format("{} on this machine", facts.devices);
  if (facts.variable && facts.visible.empty())
    return warn("GPUs", fmt::format("{} on this machine, and CUDA_VISIBLE_DEVICES hides them all", facts.devices),
                "ask for some: --gpus-per-node=1");
  if (!facts.driver)
    return bad("GPUs", text + ", and there is no driver (libcuda.so.1)", "start on a GPU node, or choose --device cpu");
  if (!facts.module)
    return warn("GPUs", text + ", and this program has no CUDA module (sluice_cuda.so) beside it",
                "build the cuda preset: ranks would compute on CPUs");
  const bool slices = std::any_of(facts.visible.begin(), facts.visible.end(),
                                  [](const std::string& t) { return t.starts_with("MIG-"); });
  if (slices && facts.visible.size() > 1)
    return warn("GPUs", text + "; slices cannot reach each other", "one rank and one slice per job, or whole GPUs");
  return ok("GPUs", text);
}

Findings judge_mpi(const MpiFacts& facts) {
  Findings out;
  if (!facts.module_error.empty()) {
    out.push_back(warn("MPI", facts.module_error,
                       "ranks on CPUs go over TCP instead; build with the site's MPI loaded (compile.sh)"));
  } else {
    out.push_back(ok("MPI", "the MPI module loads"));
  }
  if (!facts.srun_error.empty()) {
    // Its first line, without the name that stands before it here.
    std::string words = facts.srun_error.substr(0, facts.srun_error.find('\n'));
    if (words.starts_with("srun: ")) words.erase(0, 6);
    out.push_back(warn("srun", words, "correct SLURM_CONF, or ask the site: no job can be started from here"));
  }
  if (!facts.listed) return out;
  std::string kinds;
  for (const char c : *facts.listed) kinds += c == '\n' || c == '\t' ? ' ' : c;
  if (const size_t at = kinds.find("..."); at != kinds.npos) kinds.erase(0, at + 3);
  kinds.erase(0, std::min(kinds.find_first_not_of(' '), kinds.size()));
  while (!kinds.empty() && kinds.back() == ' ') kinds.pop_back();
  const bool pmix = kinds.find("pmix") != kinds.npos;
  const std::string text = fmt::format("srun --mpi=list: {}; by default {}", kinds,
                                       facts.by_default.empty() ? "not known" : facts.by_default);
  if (!facts.site.empty() && facts.site != "auto" && kinds.find(facts.site) == kinds.npos) {
    out.push_back(bad("srun", fmt::format("SITE_MPI={} is not among {}", facts.site, kinds),
                      "correct SITE_MPI in env/<site>.sh"));
  } else if (!pmix) {
    out.push_back(
        warn("srun", text, "ranks on CPUs go over TCP unless mpirun starts them, or SITE_MPI names what works"));
  } else {
    out.push_back(ok("srun", facts.by_default == "none" || facts.by_default.empty()
                                 ? text + "; the job scripts add --mpi=pmix"
                                 : text));
  }
  return out;
}

Finding judge_interfaces(const std::vector<Interface>& interfaces, const std::string& host,
                         const std::vector<std::string>& resolved, const Environment& environment) {
  std::vector<std::string> names;
  const Interface* fastest = nullptr;
  for (const Interface& i : interfaces) {
    if (i.loopback || !i.up) continue;
    names.push_back(fmt::format("{} {}{}", i.name, i.address,
                                i.mbps > 0 ? fmt::format(" {} Gbit/s", static_cast<double>(i.mbps) / 1000) : ""));
    const auto rank = [](const Interface& x) { return std::pair(x.infiniband, x.mbps); };
    if (fastest == nullptr || rank(i) > rank(*fastest)) fastest = &i;
  }
  if (names.empty()) return warn("network", "no interface is up but the loopback", "several nodes need one");
  std::string text = fmt::format("{}", fmt::join(names, ", "));
  // NCCL's list: prefixes, '=' exact names, '^' exclusions.
  const std::string chosen = value(environment, "NCCL_SOCKET_IFNAME");
  if (!chosen.empty() && chosen[0] != '^') {
    const bool exact = chosen[0] == '=';
    bool found = false;
    for (size_t at = exact ? 1 : 0; at <= chosen.size();) {
      const size_t end = std::min(chosen.find(',', at), chosen.size());
      const std::string one = chosen.substr(at, end - at);
      found = found || std::any_of(interfaces.begin(), interfaces.end(), [&](const Interface& i) {
                return i.up && (exact ? i.name == one : i.name.starts_with(one));
              });
      at = end + 1;
    }
    if (!found)
      return bad("network", fmt::format("NCCL_SOCKET_IFNAME={} names none of {}", chosen, text),
                 "correct SITE_INTERFACE in env/<site>.sh");
    text += fmt::format("; NCCL_SOCKET_IFNAME={}", chosen);
  } else if (names.size() > 1) {
    text += fmt::format("; NCCL would begin with {}", fastest->name);
  }
  const bool here = std::any_of(resolved.begin(), resolved.end(), [&](const std::string& address) {
    return std::any_of(interfaces.begin(), interfaces.end(),
                       [&](const Interface& i) { return !i.loopback && i.address == address; });
  });
  if (!here)
    return warn("network",
                fmt::format("{}; the name {} stands for {}", text, host,
                            resolved.empty() ? "nothing" : fmt::format("{}", fmt::join(resolved, ", "))),
                "other hosts must reach this one by its name; ask the site, or set --rendezvous ADDRESS:PORT");
  return ok("network", text);
}

Finding judge_ports(const PortLimits& limits, const std::vector<uint16_t>& wanted,
                    const std::vector<uint16_t>& free_ports) {
  const std::string range =
      fmt::format("outgoing connections take {}-{}", limits.ephemeral_first, limits.ephemeral_last);
  if (wanted.empty())
    return bad("ports", range + ", which leaves none of 10000-19999", "give --port, below that range");
  if (free_ports.empty()) return bad("ports", fmt::format("none of {} can be bound", wanted.size()), "give --port");
  if (free_ports.front() != wanted.front())
    return ok("ports", fmt::format("{} is taken; a server here gets {}", wanted.front(), free_ports.front()));
  if (limits.ephemeral_first <= 19999)
    return ok("ports", fmt::format("{} is free; {}, which is left out", wanted.front(), range));
  return ok("ports", fmt::format("{} is free", wanted.front()));
}

bool is_network_file_system(std::string_view type) {
  for (const std::string_view name :
       {"nfs", "lustre", "gpfs", "beegfs", "ceph", "wekafs", "panfs", "fuse", "9p", "afs", "smb", "vast", "orangefs"})
    if (type.find(name) != type.npos) return true;
  return false;
}

Findings judge_folder(const FolderFacts& f) {
  Findings out;
  std::string text = fmt::format("{} ({}), {:.0f} GB free", f.path, f.type, f.free_bytes / kGb);
  if (!f.exists) {
    out.push_back(
        bad(f.name, f.path + " is not there and cannot be made", "set its variable to a folder that you can write"));
    return out;
  }
  if (!f.writable) {
    out.push_back(
        f.shared ? bad(f.name, f.path + " cannot be written", "free space or quota, or another place (SLUICE_HOME)")
                 : warn(f.name, f.path + " cannot be written", "reading works; downloads need another HF_HOME"));
    return out;
  }
  const double least = f.shared ? 0.01 * kGb : 20 * kGb;
  if (f.free_bytes < least) {
    out.push_back(warn(f.name, text,
                       f.shared ? "make room: records and keys are kept there"
                                : "a model needs more: set HF_HOME to a scratch folder"));
  } else if (f.free_files >= 0 && f.free_files < 1000) {
    out.push_back(warn(f.name, fmt::format("{}, {:.0f} files may still be made", text, f.free_files),
                       "remove files you do not need"));
  } else if (f.shared && !f.seen_by_all && !is_network_file_system(f.type)) {
    out.push_back(warn(f.name, text + "; this may be a disk of this machine alone",
                       "all nodes must see it: set SLUICE_HOME, unless this cluster is one machine"));
  } else if (!f.shared && (f.path.find("scratch") != f.path.npos || f.path.find("SCRATCH") != f.path.npos)) {
    out.push_back(warn(f.name, text + "; scratch folders are purged of what is long unused",
                       "sluice verify MODEL tells after a pause"));
  } else {
    out.push_back(ok(f.name, text));
  }
  if (std::fabs(f.skew) > 5)
    out.push_back(warn("clock",
                       fmt::format("{}'s server is {:.0f} s {} this machine", f.path, std::fabs(f.skew),
                                   f.skew > 0 ? "ahead of" : "behind"),
                       "ask the site: record ages and time limits are compared by the clock"));
  return out;
}

Finding judge_keys(const std::vector<KeyFacts>& keys) {
  std::string open, close;
  for (const KeyFacts& k : keys) {
    if (k.own && (k.mode & 077) == 0) continue;
    open +=
        fmt::format("{}{} ({})", open.empty() ? "" : ", ", k.path, k.own ? fmt::format("{:04o}", k.mode) : "another's");
    if (k.own) close += " " + k.path;
  }
  if (!close.empty()) close = "chmod go=" + close + "; ";
  if (open.empty())
    return ok("keys", fmt::format("{} in $SLUICE_HOME, private",
                                  keys.size() == 1 ? "one folder" : fmt::format("{} files and folders", keys.size())));
  return bad("keys", "open to others: " + open,
             close + "keys that others may have read: remove them, the next start makes new ones");
}

Finding judge_internet(const InternetFacts& f) {
  const std::string via = f.proxy.empty() ? "" : " through " + f.proxy;
  if (f.status > 0 && f.status < 400)
    return ok("internet", fmt::format("{}{} answers in {:.1f} s", f.url, via, f.seconds));
  const std::string what = f.status > 0 ? fmt::format("{}{} answers {}", f.url, via, f.status)
                                        : fmt::format("{}{}: {}", f.url, via, f.error);
  if (f.status == 407 || (f.status == 403 && !f.proxy.empty()))
    return warn("internet", what + ": the proxy does not let this through", "download on a login or data node");
  if (f.offline) return ok("internet", what + "; HF_HUB_OFFLINE is set");
  return warn("internet", what, "none needed for serving; download models on a node that has it, or set https_proxy");
}

Finding judge_time_left(const std::optional<double>& seconds, const std::string& origin, bool in_job) {
  if (!in_job) return ok("time left", "no job: no limit");
  if (!seconds) return ok("time left", fmt::format("no limit is known ({})", origin));
  if (*seconds < 360)
    return warn(
        "time left",
        fmt::format("{} ({}): serve.sh's warning of 300 s would come at once", format_time_left(*seconds), origin),
        "sbatch --signal=B:TERM@30 for so short a job, or a longer --time");
  return ok("time left", fmt::format("{} ({})", format_time_left(*seconds), origin));
}

Findings judge_limits(const LimitFacts& f, bool infiniband) {
  Findings out;
  if (f.files >= 0 && f.files < 4096)
    out.push_back(warn("limits",
                       fmt::format("{} open files (hard limit {}): a thousand streams need more", f.files,
                                   f.files_hard < 0 ? "none" : std::to_string(f.files_hard)),
                       "ulimit -n 65536 in the job script"));
  if (f.processes >= 0 && f.processes < 1024)
    out.push_back(warn("limits", fmt::format("{} processes and threads", f.processes),
                       "ulimit -u 4096: every connection takes a thread"));
  if (infiniband && f.locked_kb >= 0 && f.locked_kb < 65536)
    out.push_back(warn("limits", fmt::format("{} kB of locked memory: InfiniBand needs it without limit", f.locked_kb),
                       "ask the site for memlock unlimited in slurmd"));
  if (out.empty())
    out.push_back(
        ok("limits", fmt::format("{} open files, {} processes", f.files < 0 ? "any number of" : std::to_string(f.files),
                                 f.processes < 0 ? "any number of" : std::to_string(f.processes))));
  return out;
}

Findings judge_ranks(const RankFacts& f) {
  Findings out;
  std::string text = fmt::format("{}, {} ranks on {} host{}: {:.1f} GB/s", f.transport, f.ranks, f.hosts,
                                 f.hosts == 1 ? "" : "s", f.gbps);
  if (f.latency_us > 0) text += fmt::format(", {:.0f} us for one number", f.latency_us);
  if (f.gbps < 0.1)
    out.push_back(
        warn("between", text, "slower than 1 Gbit/s: name the fast network in SITE_INTERFACE; keep tp inside a host"));
  else
    out.push_back(ok("between", text));
  if (!f.blind.empty())
    out.push_back(bad("shared", fmt::format("{} do not see $SLUICE_HOME", fmt::join(f.blind, ", ")),
                      "set SLUICE_HOME to a folder that all nodes see"));
  if (f.skew > 2)
    out.push_back(
        warn("clock", fmt::format("the hosts' clocks are {:.1f} s apart", f.skew), "ask the site to synchronise them"));
  return out;
}

}  // namespace sluice
