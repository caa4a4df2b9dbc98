// SPDX-License-Identifier: Apache-2.0
#include "launch/wait.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>

namespace sluice {

const char* launch_phase_name(LaunchPhase phase) {
  constexpr const char* kNames[] = {"pending", "starting", "loading", "ready", "ended"};
  return kNames[static_cast<int>(phase)];
}

std::string reason_words(std::string_view reason) {
  static constexpr std::pair<std::string_view, std::string_view> kWords[] = {
      {"Priority", "other jobs come first"},
      {"Resources", "waits until enough is free"},
      {"Dependency", "waits for another job"},
      {"BeginTime", "its start time is to come"},
      {"DependencyNeverSatisfied", "the job it waits for failed; cancel it"},
      {"PartitionConfig", "asks for more than the nodes of the partition have"},
      {"PartitionDown", "the partition is down"},
      {"PartitionTimeLimit", "--time is more than the partition allows"},
      {"PartitionNodeLimit", "more nodes than the partition allows"},
      {"BadConstraints", "no node has what is asked for"},
      {"ReqNodeNotAvail", "nodes are down or reserved"},
      {"InvalidAccount", "the account is not valid here; give another --account"},
      {"InvalidQOS", "the QOS is not valid here"},
      {"JobHeldUser", "held by you; scontrol release"},
      {"JobHeldAdmin", "held by the administrators"},
      {"QOSMaxJobsPerUserLimit", "you run as many jobs as the QOS allows"},
      {"AssocGrpBillingMinutes", "the account's allocation is used up"},
      {"AssocGrpGRES", "the account's share of GPUs is in use"},
  };
  for (const auto& [name, words] : kWords)
    if (reason == name || (name == "ReqNodeNotAvail" && reason.starts_with(name))) return std::string(words);
  return {};
}

std::optional<double> load_share(std::string_view log) {
  // "weights: 1.2 of 16.1 GB, 1.50 GB/s", then "weights: 16.06 GB in 9.70 s, 1.66 GB/s".
  const size_t at = log.rfind("weights: ");
  if (at == log.npos) return std::nullopt;
  const std::string line(log.substr(at + 9, log.find('\n', at) - at - 9));
  char* end = nullptr;
  const double done = std::strtod(line.c_str(), &end);
  const std::string_view rest = end;
  if (rest.starts_with(" GB in")) return 1.0;
  if (!rest.starts_with(" of ")) return std::nullopt;
  const double total = std::strtod(end + 4, nullptr);
  return total > 0 ? std::optional(std::clamp(done / total, 0.0, 1.0)) : std::nullopt;
}

LaunchStand judge_launch(const std::string& job, const std::vector<JobView>& jobs, bool queue_is_newer,
                         std::string_view log) {
  const auto view = std::find_if(jobs.begin(), jobs.end(), [&](const JobView& v) { return v.id == job; });
  if (view == jobs.end()) {
    if (queue_is_newer) return {LaunchPhase::kEnded, "the job is gone and left no record", {}};
    return {LaunchPhase::kPending, "submitted", {}};
  }
  if (view->state == "pending") return {LaunchPhase::kPending, view->detail, {}};
  if (view->state == "stopped" || view->state == "lost" || view->state == "draining")
    return {LaunchPhase::kEnded, view->detail, {}};
  if (view->state == "ready") return {LaunchPhase::kReady, view->url, {}};
  if (view->url.empty()) return {LaunchPhase::kStarting, view->detail, {}};
  const std::optional<double> share = load_share(log);
  std::string detail = fmt::format("on {}", view->host);
  if (view->state != "loading") detail += fmt::format(", {}: {}", view->state, view->detail);
  return {LaunchPhase::kLoading, detail, share};
}

}  // namespace sluice
