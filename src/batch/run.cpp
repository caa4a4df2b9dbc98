// SPDX-License-Identifier: Apache-2.0
#include "batch/run.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "batch/answer.h"
#include "cluster/walltime.h"

namespace sluice {
namespace {

constexpr double kSyncSeconds = 1;
constexpr double kIdleSeconds = 2;  // between two looks at what others still do

// Where answerers put what is finished and the writing thread takes it.
class Mailbox {
 public:
  void put(Answered answered) {
    {
      const std::lock_guard lock(mutex_);
      finished_.push_back(std::move(answered));
    }
    arrived_.notify_one();
  }
  bool take(Answered& answered, double seconds) {
    std::unique_lock lock(mutex_);
    if (!arrived_.wait_for(lock, std::chrono::duration<double>(seconds), [&] { return !finished_.empty(); }))
      return false;
    answered = std::move(finished_.front());
    finished_.pop_front();
    return true;
  }

 private:
  std::mutex mutex_;
  std::condition_variable arrived_;
  std::deque<Answered> finished_;
};

class Run {
 public:
  Run(const BatchOptions& options, Answerer& answerer, const std::atomic<bool>& stop)
      : options_(options), answerer_(answerer), stop_(stop), prompts_(options.prompts) {
    report_.prompts = prompts_.size();
  }

  BatchReport all() {
    if (is_in_place()) return report_;
    work_ = options_.shared ? shared_work(prompts_, options_.output, options_.fingerprint, *options_.shared)
                            : own_work(prompts_, options_.output, options_.fingerprint);
    if (options_.shared && is_in_place()) {  // since a moment ago
      if (work_ != nullptr) work_->finish();
      return report_;
    }
    check(work_ != nullptr, "no work, and no output");
    report_.resumed = work_->done();
    if (report_.resumed > 0)
      log_info(fmt::format("resuming: {} of {} prompts are answered already", report_.resumed, report_.prompts));
    while (!stop_ && lost_.empty()) {
      answer_what_there_is();
      if (stop_ || !lost_.empty() || !work_->complete()) continue;
      if (work_->finish()) {
        report_.complete = true;
        break;
      }
    }
    end();
    return report_;
  }

 private:
  // Whether the output holds every answer.
  bool is_in_place() {
    const auto errors = complete_output(options_.output, prompts_);
    if (!errors) return false;
    report_.done = report_.resumed = report_.prompts;
    report_.errors = *errors;
    report_.complete = true;
    return true;
  }

  // Until no prompt is left for this process.
  void answer_what_there_is() {
    while (!stop_ && lost_.empty()) {
      // Where nothing was left to begin there may be something later, when others have died; to look is work.
      bool none = under_way_ > 0 && monotonic_seconds() < look_again_;
      while (under_way_ < options_.window && !stop_ && !none) none = !start_next();
      Answered answered;
      if (under_way_ > 0) {
        if (mailbox_->take(answered, 0.2)) settle(answered);
      } else if (none) {
        work_->sync();
        if (work_->complete()) return;
        wait_for_others();
      }
      keep_up();
    }
  }

  bool start_next() {
    const int64_t index = work_->next();
    if (index < 0) {
      look_again_ = monotonic_seconds() + kIdleSeconds;
      return false;
    }
    Prompt prompt = prompts_.read(index, options_.defaults);
    ++under_way_;
    if (!prompt.error.empty()) {
      settle({index, format_error(prompt, prompt.error), prompt.error, {}, 0});
      return true;
    }
    answerer_.submit(std::move(prompt), [mailbox = mailbox_](Answered answered) { mailbox->put(std::move(answered)); });
    return true;
  }

  void settle(const Answered& answered) {
    --under_way_;
    if (!answered.lost.empty()) {
      lost_ = answered.lost;
      return;
    }
    work_->record(answered.index, answered.line);
    report_.generated_tokens += answered.generated_tokens;
    if (answered.error.empty()) return;
    ++report_.errors;
    log_warning(fmt::format("prompt {}: {}", answered.index, answered.error));
  }

  void wait_for_others() {
    const double now = monotonic_seconds();
    if (now - last_waiting_ > options_.progress_seconds) {
      log_info(fmt::format("nothing left to begin; the rest is under way at {}", work_->waiting_for()));
      last_waiting_ = now;
    }
    for (int i = 0; i < 10 && !stop_; ++i)
      std::this_thread::sleep_for(std::chrono::duration<double>(kIdleSeconds / 10));
  }

  void keep_up() {
    const double now = monotonic_seconds();
    if (now - last_sync_ > kSyncSeconds) {
      work_->sync();
      last_sync_ = now;
    }
    if (now - last_progress_ < options_.progress_seconds) return;
    last_progress_ = now;
    const BatchProgress progress = tell();
    log_info(fmt::format("{} of {} prompts, {:.1f} generated tokens/s, about {} left", progress.done, progress.prompts,
                         progress.tokens_per_second,
                         progress.seconds_left ? format_time_left(*progress.seconds_left) : "?"));
  }

  BatchProgress tell() {
    const double seconds = monotonic_seconds() - started_;
    BatchProgress progress;
    progress.prompts = report_.prompts;
    progress.done = report_.complete ? report_.prompts : work_->done();
    progress.errors = report_.errors;
    progress.generated_tokens = report_.generated_tokens;
    progress.tokens_per_second = static_cast<double>(report_.generated_tokens) / std::max(seconds, 1e-9);
    const int64_t now_done = progress.done - report_.resumed;
    if (now_done > 0)
      progress.seconds_left =
          seconds / static_cast<double>(now_done) * static_cast<double>(progress.prompts - progress.done);
    if (options_.on_progress) options_.on_progress(progress);
    return progress;
  }

  void end() {
    if (!report_.complete) work_->sync();
    report_.done = report_.complete ? report_.prompts : work_->done();
    report_.seconds = monotonic_seconds() - started_;
    tell();
    if (!lost_.empty())
      throw Error(fmt::format("{}; {} of {} prompts are answered, run the same command again to go on", lost_,
                              report_.done, report_.prompts));
    if (report_.complete) report_.errors = complete_output(options_.output, prompts_).value_or(report_.errors);
  }

  const BatchOptions& options_;
  Answerer& answerer_;
  const std::atomic<bool>& stop_;
  const PromptFile prompts_;
  const double started_ = monotonic_seconds();
  double last_sync_ = started_, last_progress_ = started_, last_waiting_ = -1e9, look_again_ = 0;
  std::unique_ptr<Work> work_;
  const std::shared_ptr<Mailbox> mailbox_ = std::make_shared<Mailbox>();
  int64_t under_way_ = 0;
  std::string lost_;
  BatchReport report_;
};

}  // namespace

std::optional<int64_t> batch_is_complete(const BatchOptions& options) {
  std::error_code error;
  const std::filesystem::path folder = options.output.has_parent_path() ? options.output.parent_path() : ".";
  const auto refuse = [&](const std::string& why) {
    throw Error(fmt::format("output {}: {}; name another file", options.output.string(), why));
  };
  if (std::filesystem::is_directory(options.output, error)) refuse("a folder is there");
  if (!std::filesystem::is_directory(folder, error)) refuse(fmt::format("there is no folder {}", folder.string()));
  if (::access(folder.c_str(), W_OK | X_OK) != 0)
    refuse(fmt::format("nothing can be written into {}: {}", folder.string(), std::strerror(errno)));
  return complete_output(options.output, PromptFile(options.prompts));
}

BatchReport run_batch(const BatchOptions& options, Answerer& answerer, const std::atomic<bool>& stop) {
  return Run(options, answerer, stop).all();
}

}  // namespace sluice
