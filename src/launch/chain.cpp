// SPDX-License-Identifier: Apache-2.0
#include "launch/chain.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <map>

#include "base/error.h"
#include "base/file.h"
#include "cluster/endpoint.h"

namespace sluice {
namespace fs = std::filesystem;
namespace {
constexpr int kMostAttempts = 2;
constexpr double kMostLead = 1800;

int generation_in(const std::string& name) {
  int value = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), value);
  return error == std::errc() && end == name.data() + name.size() && value > 0 ? value : 0;
}

std::map<int, std::string> claims_in(const fs::path& folder) {
  std::map<int, std::string> out;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    const int generation = generation_in(it->path().filename().string());
    if (generation == 0) continue;
    try {
      std::string text = read_file(it->path());
      while (!text.empty() && text.back() == '\n') text.pop_back();
      out[generation] = text;
    } catch (const Error&) {
      out[generation];  // gone or not to be seen yet: claimed all the same
    }
  }
  return out;
}

double seconds_of(const Environment& environment, const char* name, double fallback) {
  const char* text = environment(name);
  if (text == nullptr || *text == '\0') return fallback;
  char* end = nullptr;
  const double value = std::strtod(text, &end);
  if (*end != '\0' || value < 0) throw Error(fmt::format("{}='{}': expected seconds", name, text));
  return value;
}
}  // namespace

Chain::Chain(fs::path home, std::string name) : home_(std::move(home)), folder_(home_ / "services" / name) {
  endpoint_path(home_, name);  // refuses what is not a plain name
}

fs::path Chain::file(int generation) const { return folder_ / std::to_string(generation); }

bool Chain::claim(int generation, const std::string& job) {
  make_private_folder(home_);
  make_private_folder(home_ / "services");
  make_private_folder(folder_);
  const int fd = ::open(file(generation).c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd < 0) {
    if (errno == EEXIST) return false;
    throw Error(fmt::format("cannot make {}: {}", file(generation).string(), std::strerror(errno)));
  }
  ::close(fd);
  if (!job.empty()) name_job(generation, job);
  return true;
}

void Chain::name_job(int generation, const std::string& job) { replace_file(file(generation), job + "\n", 0600); }
void Chain::release(int generation) { ::unlink(file(generation).c_str()); }

std::optional<std::string> Chain::job_of(int generation) const {
  const auto claims = claims_in(folder_);
  const auto found = claims.find(generation);
  return found == claims.end() ? std::nullopt : std::optional(found->second);
}

int Chain::generation_of(const std::string& job) const {
  for (const auto& [generation, id] : claims_in(folder_))
    if (id == job) return generation;
  return 0;
}

int Chain::last() const {
  const auto claims = claims_in(folder_);
  return claims.empty() ? 0 : claims.rbegin()->first;
}

std::vector<std::string> Chain::jobs() const {
  std::vector<std::string> out;
  for (const auto& [generation, id] : claims_in(folder_))
    if (!id.empty()) out.push_back(id);
  return out;
}

// A link is never half written, and shows the record as it is now.
void Chain::point_to(const std::string& record) const {
  make_private_folder(home_ / "services");
  make_private_folder(folder_);
  const fs::path fresh = folder_ / fmt::format("endpoint.{}", ::getpid()), link = folder_ / "endpoint.json";
  std::error_code error;
  fs::remove(fresh, error);
  fs::create_symlink(fs::path("../../jobs") / (record + ".json"), fresh, error);
  if (!error) fs::rename(fresh, link, error);
  if (error) throw Error(fmt::format("cannot make {}: {}", link.string(), error.message()));
}

bool Chain::stopped() const {
  std::error_code error;
  return fs::exists(folder_ / "stop", error);
}

void Chain::stop() {
  make_private_folder(home_ / "services");
  make_private_folder(folder_);
  replace_file(folder_ / "stop", "", 0600);
}

void Chain::forget() {
  for (const auto& [generation, id] : claims_in(folder_)) release(generation);
  ::unlink((folder_ / "stop").c_str());
}

KeepPolicy read_keep_policy(const Environment& environment) {
  KeepPolicy policy;
  if (const char* service = environment("SLUICE_SERVICE")) policy.service = service;
  policy.successors = seconds_of(environment, "SLUICE_KEEP_ALIVE", 0) != 0;
  policy.until = seconds_of(environment, "SLUICE_KEEP_UNTIL", 0);
  policy.lead = seconds_of(environment, "SLUICE_KEEP_LEAD", 0);
  policy.overlap = seconds_of(environment, "SLUICE_KEEP_OVERLAP", policy.overlap);
  policy.most_jobs = static_cast<int>(seconds_of(environment, "SLUICE_KEEP_JOBS", 0));
  return policy;
}

KeepStep next_keep_step(const KeepPolicy& policy, const KeepFacts& facts) {
  if (facts.stopped) return {KeepAction::kGiveUp, "the service was stopped"};
  if (facts.successor_ready_since > 0) {
    if (facts.now - facts.successor_ready_since < policy.overlap) return {};
    return {KeepAction::kLeave, "the successor has taken over"};
  }
  const bool over = policy.until > 0 && facts.now >= policy.until;
  if (over && !facts.claimed) return {KeepAction::kLeave, "the time of --keep-alive-until has come"};
  if (!policy.successors || facts.end <= 0) return {};
  // One that never became ready must not be followed: it would fail again and again.
  if (!facts.ready) return {};
  if (facts.claimed && !facts.successor_lost) return {};
  const double lead = policy.lead > 0 ? policy.lead : std::min(kMostLead, (facts.end - facts.start) / 3);
  if (facts.now < facts.end - lead) return {};
  if (policy.most_jobs > 0 && facts.generation >= policy.most_jobs)
    return {KeepAction::kGiveUp,
            fmt::format("this is job {} of {} (--keep-alive-jobs)", facts.generation, policy.most_jobs)};
  if (policy.until > 0 && facts.end >= policy.until)
    return {KeepAction::kGiveUp, "this job lasts until --keep-alive-until"};
  if (facts.attempts >= kMostAttempts)
    return {KeepAction::kGiveUp,
            fmt::format("{} successors ended before they were ready; see their logs", facts.attempts)};
  return {KeepAction::kSubmit,
          facts.successor_lost ? "the first successor ended before it was ready" : "this job's time runs out"};
}

}  // namespace sluice
