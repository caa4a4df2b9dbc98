// SPDX-License-Identifier: Apache-2.0
#include "app/bench_steps.h"

#include <algorithm>

#include "base/error.h"

namespace sluice {

BenchSteps::BenchSteps(Executor& executor, int64_t tokens_per_slot)
    : executor_(executor), tokens_per_slot_(std::min(tokens_per_slot, executor.info().limits.max_context)) {}

void BenchSteps::run() {
  step_.id = next_id_++;
  executor_.run(step_, result_);
  if (result_.id != 0) check(++known_ == result_.id && !result_.tokens.empty(), "a bench step has no result");
}

void BenchSteps::finish() {
  while (known_ + 1 < next_id_) {
    check(executor_.collect(result_) && ++known_ == result_.id && !result_.tokens.empty(),
          "a bench step has no result");
  }
}

// Block `i` of a sequence. Where a group is too small to keep whole sequences each has what its window needs, in turns,
// and what lies before it in the prompt goes to blocks that all share.
int64_t BenchSteps::place(int64_t group, int64_t slot, int64_t i, int64_t each) const {
  const ExecutorInfo& info = executor_.info();
  const int64_t window = info.cache_groups[static_cast<size_t>(group)].window, block = info.limits.block_size;
  const int64_t have = info.limits.blocks[static_cast<size_t>(group)];
  int64_t out = slot * each + i;
  if (window > 0 && batch_ * each > have) {
    const int64_t own = (window + block - 1) / block + 3, prompt = (context_ + block - 1) / block;
    out = i + own < prompt ? batch_ * own + i : slot * own + i % own;
  }
  if (out >= have) throw Error("bench: the sequences do not fit the cache; lower --context or --batch");
  return out;
}

void BenchSteps::start(int64_t batch, int64_t context) {
  const int64_t block = executor_.info().limits.block_size;
  const int64_t per_slot = tokens_per_slot_ / block;
  if (context >= tokens_per_slot_ && batch > 1)
    throw Error("bench: the context does not fit the cache; lower --context or --batch");
  const int64_t groups = static_cast<int64_t>(executor_.info().cache_groups.size());
  const int64_t budget = executor_.info().limits.max_rows;
  if (context > budget) throw Error("bench: a prompt must fit one step; raise --max-batch-prefill-tokens");
  batch_ = batch;
  context_ = context;
  const int64_t needed = batch == 1 ? (std::max(context + 1, tokens_per_slot_) + block - 1) / block : per_slot;
  for (int64_t slot = 0; slot < batch; ++slot) {
    step_.clear();
    step_.inits.push_back({static_cast<int32_t>(slot), 0, 0, 0, SamplingParams{}});
    for (int64_t g = 0; g < groups; ++g) {
      for (int64_t i = 0; i < needed; ++i) {
        step_.tables.push_back({static_cast<int32_t>(slot), static_cast<int32_t>(g), static_cast<int32_t>(i),
                                static_cast<int32_t>(place(g, slot, i, needed))});
      }
    }
    step_.sequences.push_back({static_cast<int32_t>(slot), 0, static_cast<int32_t>(context), 0, Phase::kPrefill});
    for (int64_t i = 0; i < context; ++i)
      step_.tokens.push_back(static_cast<int32_t>((17 + 31 * i + slot) % executor_.info().model.vocab));
    step_.samples.push_back(
        {static_cast<int32_t>(context - 1), static_cast<int32_t>(slot), static_cast<int32_t>(context), -1});
    run();
  }
  finish();
}

void BenchSteps::decode(int64_t steps) {
  for (int64_t n = 0; n < steps; ++n) {
    step_.clear();
    for (int32_t slot = 0; slot < batch_; ++slot) {
      step_.sequences.push_back({slot, slot, 1, static_cast<int32_t>(context_), Phase::kDecode});
      step_.tokens.push_back(-1);
      step_.samples.push_back({slot, slot, static_cast<int32_t>(context_ + 1), -1});
    }
    run();
    ++context_;
  }
}

}  // namespace sluice
