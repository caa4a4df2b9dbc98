// SPDX-License-Identifier: Apache-2.0
#include "hub/verifier.h"

#include <algorithm>
#include <chrono>
#include <vector>

#include "base/error.h"
#include "hub/digest.h"

namespace sluice {
namespace {
constexpr uint64_t kPiece = uint64_t{1} << 20;      // bytes of one read
constexpr uint64_t kWriteBack = uint64_t{8} << 20;  // bytes sent to the disk together
constexpr auto kWait = std::chrono::milliseconds(5);
}  // namespace

Verifier::Verifier() : thread_([this] { run(); }) {}

Verifier::~Verifier() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void Verifier::follow(std::shared_ptr<PartFile> part, std::string expected) {
  const std::lock_guard lock(mutex_);
  tasks_.push_back({std::move(part), std::move(expected)});
  changed_.notify_all();
}

void Verifier::forget(const std::shared_ptr<PartFile>& part) {
  const std::lock_guard lock(mutex_);
  std::erase_if(tasks_, [&](const Task& task) { return task.part == part; });
}

std::optional<Verifier::Verdict> Verifier::next() {
  const std::lock_guard lock(mutex_);
  if (verdicts_.empty()) return std::nullopt;
  Verdict verdict = std::move(verdicts_.front());
  verdicts_.pop_front();
  return verdict;
}

bool Verifier::dropped(const Task& task) {
  const std::lock_guard lock(mutex_);
  return stop_ || std::none_of(tasks_.begin(), tasks_.end(), [&](const Task& t) { return t.part == task.part; });
}

std::optional<Verifier::Verdict> Verifier::digest(const Task& task) {
  const PartFile& part = *task.part;
  std::vector<char> piece(kPiece);
  Digest digest(task.expected, part.size());
  uint64_t at = 0;
  while (at < part.size()) {
    const uint64_t frontier = part.frontier();
    if (frontier < at) {  // started afresh
      digest = Digest(task.expected, part.size());
      at = 0;
      continue;
    }
    // Whole reads, except at the end.
    if (frontier == at || (frontier - at < kPiece && frontier < part.size())) {
      if (dropped(task)) return std::nullopt;
      std::this_thread::sleep_for(kWait);
      continue;
    }
    const size_t n = static_cast<size_t>(std::min(kPiece, frontier - at));
    part.read(at, piece.data(), n);
    digest.update(piece.data(), n);
    at += n;
    if (at % kWriteBack == 0) part.write_back(at - kWriteBack, kWriteBack);
    if (dropped(task)) return std::nullopt;
  }
  Verdict verdict{task.part, digest.hex(), {}};
  if (verdict.digest == task.expected) part.sync();
  return verdict;
}

void Verifier::run() {
  while (true) {
    Task task;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return stop_ || !tasks_.empty(); });
      if (stop_) return;
      task = tasks_.front();
    }
    std::optional<Verdict> verdict;
    try {
      verdict = digest(task);
    } catch (const Error& error) {
      verdict = Verdict{task.part, {}, error.what()};
    }
    const std::lock_guard lock(mutex_);
    const auto found = std::find_if(tasks_.begin(), tasks_.end(), [&](const Task& t) { return t.part == task.part; });
    if (found == tasks_.end()) continue;
    tasks_.erase(found);
    if (verdict) verdicts_.push_back(std::move(*verdict));
  }
}

}  // namespace sluice
