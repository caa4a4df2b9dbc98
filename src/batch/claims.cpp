// SPDX-License-Identifier: Apache-2.0
#include "batch/claims.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstring>

#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "batch/owner_file.h"

namespace sluice {
namespace {

constexpr double kQueueDeadline = 10;
constexpr std::string_view kLeft = "left";

// Written in place and on purpose not by rename: a new file would be a new name to look up for every reader.
void rewrite(const std::filesystem::path& path, std::string_view content) noexcept {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0) return;
  const std::string fixed = fmt::format("{:<20}\n", content);
  [[maybe_unused]] const ssize_t written = ::pwrite(fd, fixed.data(), fixed.size(), 0);
  ::fsync(fd);
  ::close(fd);
}

std::string read_beat(const std::filesystem::path& path) {
  try {
    return read_file(path);
  } catch (const Error&) {
    return "";
  }
}

bool runs(std::string_view state) {
  return state == "RUNNING" || state == "COMPLETING" || state == "SUSPENDED" || state == "STOPPED" ||
         state == "SIGNALING" || state == "STAGE_OUT" || state == "RESIZING";
}

}  // namespace

Claims::Claims(Options options, Owner me)
    : options_(std::move(options)), me_(std::move(me)), chunks_(static_cast<size_t>(options_.chunks)) {
  for (const char* name : {"owners", "beats", "claims"}) make_private_folder(options_.folder / name);
  mine_ = options_.folder / "owners" / me_.id;
  replace_file(mine_, serialise(me_), 0600);
  if (me_.restart > 0) restarts_[me_.job] = me_.restart;
  rewrite(options_.folder / "beats" / me_.id, "0");
  beating_ = std::thread([this] { beat(); });
}

Claims::~Claims() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  stop_.notify_all();
  beating_.join();
  std::error_code ignored;
  if (std::filesystem::exists(options_.folder / "beats", ignored)) rewrite(options_.folder / "beats" / me_.id, kLeft);
}

void Claims::beat() {
  std::unique_lock lock(mutex_);
  for (uint64_t n = 1;
       !stop_.wait_for(lock, std::chrono::duration<double>(options_.beat_seconds), [this] { return stopping_; }); ++n) {
    lock.unlock();
    rewrite(options_.folder / "beats" / me_.id, std::to_string(n));
    lock.lock();
  }
}

std::filesystem::path Claims::claim_path(int64_t chunk, int attempt) const {
  return options_.folder / "claims" / fmt::format("{}.{}", chunk, attempt);
}

void Claims::refresh() {
  const double begin = monotonic_seconds();
  std::error_code error;
  std::filesystem::directory_iterator entries(options_.folder / "claims", error);
  if (error) throw Error(fmt::format("cannot list {}/claims: {}", options_.folder.string(), error.message()));
  for (const auto& entry : entries) {
    const std::string name = entry.path().filename();
    int64_t chunk = 0;
    const auto [dot, bad] = std::from_chars(name.data(), name.data() + name.size(), chunk);
    if (bad != std::errc() || *dot != '.' || chunk < 0 || chunk >= options_.chunks) continue;
    Chunk& known = chunks_[static_cast<size_t>(chunk)];
    const std::string_view rest(dot + 1, static_cast<size_t>(name.data() + name.size() - dot - 1));
    int attempt = 0;
    if (rest == "done")
      known.done = true;
    else if (std::from_chars(rest.data(), rest.data() + rest.size(), attempt).ec == std::errc())
      known.attempts = std::max(known.attempts, attempt + 1);
  }
  looked_ = monotonic_seconds();
  look_seconds_ = looked_ - begin;
}

bool Claims::overdue() const { return monotonic_seconds() - looked_ > 20 * look_seconds_; }

// True when the claim is this process's from now on.
bool Claims::claim(int64_t chunk, int attempt) {
  const std::filesystem::path path = claim_path(chunk, attempt);
  Chunk& known = chunks_[static_cast<size_t>(chunk)];
  known.attempts = std::max(known.attempts, attempt + 1);
  if (::link(mine_.c_str(), path.c_str()) == 0) return true;
  int reason = errno;
  if (reason == EPERM || reason == ENOTSUP || reason == ENOSYS || reason == EMLINK) {  // a file system without links
    const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    reason = fd < 0 ? errno : 0;
    if (fd >= 0) {
      const std::string text = serialise(me_);
      const ssize_t n = ::write(fd, text.data(), text.size());
      ::fsync(fd);
      ::close(fd);
      if (n == static_cast<ssize_t>(text.size())) return true;
      reason = ENOSPC;
    }
  }
  if (reason != EEXIST) throw Error(fmt::format("cannot claim work in {}: {}", path.string(), std::strerror(reason)));
  // The answer to a link that was made may have been lost on its way: then the claim carries this process's name.
  return owner_of(chunk, attempt).id == me_.id;
}

std::optional<Claim> Claims::take() {
  const auto made = [this](int64_t chunk, int attempt) {
    Claim claim{chunk, attempt, {}};
    for (int n = 0; n < attempt; ++n) claim.before.push_back(owner_of(chunk, n).id);
    return claim;
  };
  const auto at = [this](int64_t i) { return (options_.first + i) % options_.chunks; };
  for (const bool fresh : {false, true}) {
    if (fresh && (!took_over_ || overdue())) refresh();
    for (; begun_ < options_.chunks; ++begun_) {
      const int64_t k = at(begun_);
      const Chunk& chunk = chunks_[static_cast<size_t>(k)];
      if (chunk.done || chunk.attempts > 0) continue;
      if (claim(k, 0)) return made(k, 0);
      if (overdue()) refresh();  // others were here: what they have is passed over without asking for each
    }
  }
  took_over_ = false;
  std::vector<int64_t> held;
  for (int64_t i = 0; i < options_.chunks; ++i)
    if (const Chunk& chunk = chunks_[static_cast<size_t>(at(i))]; !chunk.done && chunk.attempts > 0)
      held.push_back(at(i));
  // All of them first: one's claim may show that another, of the same job, is dead.
  for (const int64_t k : held) owner_of(k, chunks_[static_cast<size_t>(k)].attempts - 1);
  std::set<std::string> alive;
  for (const int64_t k : held) {
    Chunk& chunk = chunks_[static_cast<size_t>(k)];
    const int attempt = chunk.attempts;
    const Owner& owner = owner_of(k, attempt - 1);
    if (alive.contains(owner.id)) continue;
    if (!dead(owner)) {
      alive.insert(owner.id);
      continue;
    }
    // It may have finished the chunk since this process looked last, and then left.
    chunk.done = ::access((options_.folder / "claims" / fmt::format("{}.done", k)).c_str(), F_OK) == 0;
    took_over_ = !chunk.done && claim(k, attempt);
    if (took_over_) return made(k, attempt);
  }
  return std::nullopt;
}

void Claims::finish(int64_t chunk) {
  const std::filesystem::path path = options_.folder / "claims" / fmt::format("{}.done", chunk);
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0) throw Error(fmt::format("cannot write {}: {}", path.string(), std::strerror(errno)));
  ::close(fd);
  chunks_[static_cast<size_t>(chunk)].done = true;
}

void Claims::reopen(int64_t chunk) {
  Chunk& known = chunks_[static_cast<size_t>(chunk)];
  ::unlink((options_.folder / "claims" / fmt::format("{}.done", chunk)).c_str());
  for (int n = known.attempts; n-- > 0;) {
    ::unlink(claim_path(chunk, n).c_str());
    owners_.erase({chunk, n});
  }
  known = {};
  begun_ = 0;
}

bool Claims::all_finished() {
  if (finished() < options_.chunks) refresh();
  return finished() == options_.chunks;
}

int64_t Claims::finished() const { return std::ranges::count_if(chunks_, &Chunk::done); }

std::string Claims::holders() const {
  std::set<std::string> names;
  for (int64_t k = 0; k < options_.chunks; ++k) {
    const Chunk& chunk = chunks_[static_cast<size_t>(k)];
    const auto owner = owners_.find({k, chunk.attempts - 1});
    if (!chunk.done && owner != owners_.end() && owner->second.id != me_.id) names.insert(to_string(owner->second));
  }
  return fmt::format("{}", fmt::join(names, ", "));
}

const Owner& Claims::owner_of(int64_t chunk, int attempt) {
  Owner& owner = owners_[{chunk, attempt}];
  if (!owner.id.empty()) return owner;
  // Empty or torn while it is being written where links are not to be had: asked again next time.
  try {
    owner = parse_owner(read_file(claim_path(chunk, attempt)));
  } catch (const Error&) {
  }
  if (!owner.job.empty()) {
    int& newest = restarts_[owner.job];
    newest = std::max(newest, owner.restart);
  }
  return owner;
}

// Empty where nothing says so.
std::string Claims::why_gone(const Owner& owner) {
  if (!owner.job.empty() && owner.cluster == me_.cluster && restarts_[owner.job] > owner.restart)
    return "its job was requeued";
  if (gone_from_here(owner, me_)) return "its process is gone";
  return gone_by_slurm(owner).value_or(false) ? "its job does not run" : "";
}

bool Claims::dead(const Owner& owner) {
  if (owner.id == me_.id && !owner.id.empty()) return false;
  if (dead_.contains(owner.id)) return true;
  const double now = monotonic_seconds();
  Heard& heard = heard_[owner.id];
  if (heard.met == 0) heard.met = now;
  std::string why;
  if (silent(owner)) {
    why = read_beat(options_.folder / "beats" / owner.id).starts_with(kLeft) ? "it has left" : "nothing heard of it";
  } else if (!owner.id.empty()) {
    why = why_gone(owner);
  }
  if (why.empty()) return false;
  dead_.insert(owner.id);
  log_info(fmt::format("taking over from {}: {}", owner.id.empty() ? "an unknown process" : to_string(owner), why));
  return true;
}

// By its beats, on this process's clock: no two hosts' clocks are compared.
bool Claims::silent(const Owner& owner) {
  Heard& heard = heard_[owner.id];
  const std::string beat = owner.id.empty() ? "" : read_beat(options_.folder / "beats" / owner.id);
  if (beat.starts_with(kLeft)) return true;
  const double now = monotonic_seconds();
  if (heard.since == 0 || beat != heard.beat) heard = {beat, now, heard.met};
  return now - heard.since > options_.silence_seconds;
}

// What squeue says of the owner's job, when the question was asked after this process has met the owner: an older
// answer may be of before it started.
std::optional<bool> Claims::gone_by_slurm(const Owner& owner) {
  if (!options_.run || owner.job.empty() || owner.cluster != me_.cluster) return std::nullopt;
  const double now = monotonic_seconds();
  if (now - queue_asked_ > options_.queue_seconds) {
    queue_asked_ = now;
    queue_.reset();
    const auto said = options_.run({"squeue", "--me", "-h", "-t", "all", "-o", "%A|%T"}, kQueueDeadline);
    if (said && said->exit_code == 0) queue_ = parse_states(said->output);
  }
  if (!queue_ || queue_asked_ < heard_[owner.id].met) return std::nullopt;
  const auto state = queue_->find(owner.job);
  return state == queue_->end() || !runs(state->second);
}

}  // namespace sluice
