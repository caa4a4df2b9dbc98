// SPDX-License-Identifier: Apache-2.0
#include <chrono>
#include <thread>

#include "base/clock.h"
#include "base/error.h"
#include "engine/executor.h"

namespace sluice {
namespace {

class NullExecutor : public Executor {
 public:
  NullExecutor(const ExecutorOptions& options, int64_t vocab, int64_t token, double steps_per_s)
      : token_(static_cast<int32_t>(token)), step_time_(steps_per_s > 0 ? 1 / steps_per_s : 0) {
    check(options.max_seqs > 0 && options.max_rows > 0 && options.max_context > 0 && options.block_size > 0,
          "the null executor needs positive sizes");
    if (token < 0 || token >= vocab)
      throw Error("null model: token " + std::to_string(token) + " is not in the vocabulary of " +
                  std::to_string(vocab) + " tokens");
    info_.model.family = info_.model.name = "null";
    info_.model.dtype = "none";
    info_.model.vocab = vocab;
    info_.model.max_positions = options.max_context;
    info_.cache_groups.push_back({"self", CacheGroupSpec::Growth::kPerToken, 1, 0});
    info_.limits.block_size = options.block_size;
    const int64_t per_sequence = (options.max_context + options.block_size - 1) / options.block_size;
    const auto given = static_cast<int64_t>(options.cache_bytes) / options.block_size;  // a byte per token
    info_.limits.blocks = {options.cache_bytes > 0 ? std::max<int64_t>(given, 1) : options.max_seqs * per_sequence};
    info_.limits.max_rows = options.max_rows;
    info_.limits.max_seqs = options.max_seqs;
    info_.limits.max_logits = std::max(options.max_rows, options.max_seqs);
    info_.limits.max_context = options.max_context;
    info_.slots = options.max_seqs;
  }

  const ExecutorInfo& info() const override { return info_; }

  void run(const Step& step, StepResult& result) override {
    if (step_time_ > 0) keep_pace();
    result.id = step.id;
    result.tokens.resize(step.samples.size());
    for (size_t i = 0; i < step.samples.size(); ++i) {
      const int32_t target = step.samples[i].target;
      result.tokens[i].token = target >= 0 ? target : token_;
      result.tokens[i].logprob = 0;  // certain
      result.tokens[i].rank = 1;
      result.tokens[i].n_top = 0;
    }
  }

  bool collect(StepResult&) override { return false; }

 private:
  // Steps end `step_time_` apart, whatever their own work took; the first after a pause lasts as long.
  void keep_pace() {
    const double now = monotonic_seconds();
    end_ = (now < end_ + step_time_ ? end_ : now) + step_time_;
    std::this_thread::sleep_for(std::chrono::duration<double>(end_ - now));
  }

  ExecutorInfo info_;
  int32_t token_;
  double step_time_, end_ = 0;  // seconds
};

}  // namespace

std::unique_ptr<Executor> make_null_executor(const ExecutorOptions& options, int64_t vocab, int64_t token,
                                             double steps_per_s) {
  return std::make_unique<NullExecutor>(options, vocab, token, steps_per_s);
}

}  // namespace sluice
