// SPDX-License-Identifier: Apache-2.0
#include "hub/verifier.h"

#include <algorithm>
#include <chrono>
#include <utility>
#include <vector>

#include "base/error.h"
#include "hub/digest.h"

namespace sluice {
namespace {
constexpr uint64_t kPiece = uint64_t{1} << 20;      // bytes waited for
constexpr uint64_t kRead = uint64_t{128} << 10;     // of one read: what the core's cache holds until it is digested
constexpr uint64_t kWriteBack = uint64_t{8} << 20;  // bytes sent to the disk together
constexpr auto kWait = std::chrono::milliseconds(5);
}  // namespace

Verifier::Verifier(std::function<void()> decided) : decided_(std::move(decided)), thread_([this] { run(); }) {}

Verifier::~Verifier() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void Verifier::follow(std::shared_ptr<PartFile> part, std::string expected) {
  Digest digest(expected, part->size());
  const std::lock_guard lock(mutex_);
  tasks_.push_back(std::make_shared<Task>(Task{std::move(part), std::move(expected), std::move(digest)}));
  changed_.notify_all();
}

void Verifier::forget(const std::shared_ptr<PartFile>& part) {
  const std::lock_guard lock(mutex_);
  std::erase_if(tasks_, [&](const auto& task) { return task->part == part; });
}

std::optional<Verifier::Verdict> Verifier::next() {
  const std::lock_guard lock(mutex_);
  if (verdicts_.empty()) return std::nullopt;
  Verdict verdict = std::move(verdicts_.front());
  verdicts_.pop_front();
  return verdict;
}

// One piece, or what is left of the file.
void Verifier::step(Task& task) {
  std::vector<char> bytes(kRead);
  const PartFile& part = *task.part;
  for (const uint64_t end = std::min(task.at + kPiece, part.size()); task.at < end;) {
    const size_t n = static_cast<size_t>(std::min(kRead, end - task.at));
    part.read(task.at, bytes.data(), n);
    task.digest.update(bytes.data(), n);
    task.at += n;
  }
  if (task.at > 0 && task.at % kWriteBack == 0) part.write_back(task.at - kWriteBack, kWriteBack);
}

void Verifier::run() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [&] { return stop_ || !tasks_.empty(); });
    if (stop_) return;
    // The first of which there is enough.
    const auto ready = std::find_if(tasks_.begin(), tasks_.end(), [](const auto& task) {
      const uint64_t frontier = task->part->frontier();
      if (frontier < task->at) {  // started afresh
        task->digest = Digest(task->expected, task->part->size());
        task->at = 0;
      }
      return frontier - task->at >= kPiece || frontier == task->part->size();
    });
    if (ready == tasks_.end()) {
      changed_.wait_for(lock, kWait);
      continue;
    }
    const std::shared_ptr<Task> task = *ready;
    lock.unlock();
    std::optional<Verdict> verdict;
    try {
      step(*task);
      if (task->at == task->part->size()) {
        verdict = Verdict{task->part, task->digest.hex(), {}};
        if (verdict->digest == task->expected) task->part->sync();
      }
    } catch (const Error& error) {
      verdict = Verdict{task->part, {}, error.what()};
    }
    lock.lock();
    if (!verdict || std::erase(tasks_, task) == 0) continue;
    verdicts_.push_back(std::move(*verdict));
    lock.unlock();
    decided_();
    lock.lock();
  }
}

}  // namespace sluice
