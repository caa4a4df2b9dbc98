// SPDX-License-Identifier: Apache-2.0
// The executor of a real model.
//
// Pipeline. Every rank runs every step in order; hidden states travel inside Model::forward. After each step a rank of
// the last stage sends the drawn tokens (one byte when there are none) to stage 0, same tp index. Stage 0 receives them
// in step order: rank 0 in collect(), and every rank of stage 0 before it runs step j for all steps up to j - stages.
// The leader has at most `stages` steps unfinished, so those messages have been sent by ranks that wait for nothing of
// step j: no cycle, provided that send() does not wait for its receiver, which comm's transports guarantee by copying.
#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "base/log.h"
#include "engine/cache_size.h"
#include "engine/executor.h"
#include "engine/step_tensors.h"

namespace sluice {
namespace {

class ModelExecutor : public Executor {
 public:
  ModelExecutor(std::unique_ptr<Model> model, Backend& backend, Groups& groups, const ExecutorOptions& options);
  const ExecutorInfo& info() const override { return info_; }
  void run(const Step& step, StepResult& result) override;
  bool collect(StepResult& result) override;

 private:
  struct Unread {  // of stage 0: a step whose tokens are still under way
    uint64_t id;
    std::vector<int32_t> slots;  // of its samples; -1 for a score
  };

  void size(const ExecutorOptions& options);
  void sample(const Step& step, const Tensor& logits, StepResult& result);
  void receive(StepResult& result);
  Tensor bytes_of(std::vector<SampledToken>& tokens, size_t n);
  bool pipelined() const { return groups_.stages() > 1; }
  bool leader() const { return groups_.world->rank() == 0; }

  std::unique_ptr<Model> model_;
  Backend& backend_;
  Groups& groups_;
  ExecutorInfo info_;
  std::unique_ptr<StepTensors> tensors_;
  std::unique_ptr<SamplerState> sampler_;  // on the last stage
  Buffer drawn_;                           // u8 [max_logits, sizeof(SampledToken)], on the last stage
  std::vector<SampledToken> message_;      // of a pipeline: what travels from the last stage to the first
  std::vector<int32_t> last_tokens_;       // [slots], of stage 0 in a pipeline
  std::vector<Unread> unread_;             // oldest first
  Step resolved_;                          // of stage 0 in a pipeline: a step without unknown tokens
};

ModelExecutor::ModelExecutor(std::unique_ptr<Model> model, Backend& backend, Groups& groups,
                             const ExecutorOptions& options)
    : model_(std::move(model)), backend_(backend), groups_(groups) {
  info_.model = model_->info();
  info_.cache_groups = model_->cache_groups();
  info_.stages = groups_.stages();
  size(options);
  model_->allocate(info_.limits);
  tensors_ = std::make_unique<StepTensors>(backend_, info_.limits, info_.slots, info_.cache_groups.size());
  if (groups_.last_stage()) {
    sampler_ = backend_.make_sampler(info_.slots, info_.model.vocab);
    drawn_ = backend_.allocate(static_cast<size_t>(info_.limits.max_logits) * sizeof(SampledToken));
  }
  if (pipelined() && groups_.first_stage()) last_tokens_.resize(static_cast<size_t>(info_.slots), -1);
}

void ModelExecutor::size(const ExecutorOptions& options_in) {
  ExecutorOptions options = options_in;
  if (options.max_context == 0) options.max_context = info_.model.max_positions;
  check(options.max_seqs > 0 && options.max_rows > 0 && options.max_context > 0 && options.block_size > 0,
        "the executor needs positive sizes");
  if (options.block_size % 16 != 0)
    throw Error(fmt::format("the cache block size is {} tokens, expected a multiple of 16", options.block_size));
  info_.slots = options.max_seqs * info_.stages;
  RunLimits& limits = info_.limits;
  limits.block_size = options.block_size;
  limits.max_rows = options.max_rows;
  limits.max_seqs = std::min(options.max_seqs, options.max_rows);
  limits.max_context = options.max_context;
  // Room for one draw per sequence, and for a good part of a scored prompt.
  limits.max_logits = std::max(options.max_seqs, std::min<int64_t>(options.max_rows, 64));

  // Six tenths of what is free leave room for the step's scratch memory and for others.
  const size_t bytes = options.cache_bytes > 0 ? options.cache_bytes : backend_.free_bytes() / 10 * 6;
  limits.blocks = cache_blocks(info_.cache_groups, options, info_.slots, bytes);
  // The smallest of all ranks: they share block ids.
  const auto n = static_cast<int64_t>(limits.blocks.size());
  std::vector<int64_t> all(static_cast<size_t>(n * groups_.world->size()));
  groups_.world->all_gather(Tensor(all.data(), DType::kI64, {static_cast<int64_t>(all.size())}),
                            Tensor(limits.blocks.data(), DType::kI64, {n}));
  for (size_t i = 0; i < all.size(); ++i)
    limits.blocks[i % static_cast<size_t>(n)] = std::min(limits.blocks[i % static_cast<size_t>(n)], all[i]);

  const int64_t blocks = *std::ranges::min_element(limits.blocks);
  if (blocks == 0)
    throw Error(fmt::format("the cache of {} MB holds not one block of {} tokens; give it more memory", bytes >> 20,
                            limits.block_size));
  bool window = false;
  for (const CacheGroupSpec& g : info_.cache_groups) window |= g.growth == CacheGroupSpec::Growth::kWindow;
  if (leader() && !window && blocks * limits.block_size < limits.max_context)
    log_warning(fmt::format("the cache holds {} tokens, less than the context of {}: longer requests are refused",
                            blocks * limits.block_size, limits.max_context));
}

void ModelExecutor::run(const Step& step_in, StepResult& result) {
  result.id = 0;
  result.tokens.clear();
  const bool reads = pipelined() && groups_.first_stage();
  const size_t most_unread = step_in.shutdown ? 0 : static_cast<size_t>(info_.stages) - 1;
  while (reads && unread_.size() > most_unread) receive(result);
  if (step_in.shutdown) return;

  const Step* step = &step_in;
  if (reads && std::ranges::find(step->tokens, -1) != step->tokens.end()) {
    resolved_ = step_in;
    for (const StepSequence& s : step->sequences)
      for (int32_t row = s.first_row; row < s.first_row + s.n_rows; ++row)
        if (int32_t& token = resolved_.tokens[static_cast<size_t>(row)]; token < 0)
          token = last_tokens_[static_cast<size_t>(s.slot)];
    step = &resolved_;
  }

  if (sampler_)
    for (const SlotInit& init : step->inits)
      backend_.set_slot(*sampler_, init.slot, init.params, step->history.data() + init.history_begin, init.n_history,
                        init.n_output);
  const BatchView batch = tensors_->fill(*step);
  for (int32_t g = 0; g < static_cast<int32_t>(info_.cache_groups.size()); ++g)
    if (const Tensor pairs = tensors_->copies(*step, g)) model_->copy_blocks(g, pairs);
  if (!pipelined()) backend_.resolve_tokens(*sampler_, batch.tokens, tensors_->row_slots());
  const Tensor logits = model_->forward(batch);
  if (sampler_) sample(*step, logits, result);
  if (reads) {
    unread_.push_back({step->id, {}});
    for (const SampleEntry& e : step->samples) unread_.back().slots.push_back(e.target < 0 ? e.slot : -1);
  }
}

void ModelExecutor::sample(const Step& step, const Tensor& logits, StepResult& result) {
  const auto n = static_cast<int64_t>(step.samples.size());
  const Tensor drawn = drawn_.view(DType::kU8, {n, static_cast<int64_t>(sizeof(SampledToken))});
  if (n > 0) backend_.sample(*sampler_, drawn, logits, tensors_->entries());
  if (pipelined()) {
    const Tensor message = bytes_of(message_, static_cast<size_t>(n));
    if (n > 0) backend_.copy_out(message_.data(), drawn);
    groups_.pp->send(message, 0);
  } else if (leader()) {
    result.id = step.id;
    result.tokens.resize(static_cast<size_t>(n));
    if (n > 0) backend_.copy_out(result.tokens.data(), drawn);
  }
}

// The message of a step with n samples; resizes `tokens` to hold it.
Tensor ModelExecutor::bytes_of(std::vector<SampledToken>& tokens, size_t n) {
  tokens.resize(std::max<size_t>(n, 1));
  return Tensor(tokens.data(), DType::kU8, {n > 0 ? static_cast<int64_t>(n * sizeof(SampledToken)) : 1});
}

// Tokens of the oldest unread step. Only the leader has a use for the whole; the others keep what a later step may ask
// for.
void ModelExecutor::receive(StepResult& result) {
  const Unread oldest = std::move(unread_.front());
  unread_.erase(unread_.begin());
  groups_.pp->recv(bytes_of(message_, oldest.slots.size()), groups_.stages() - 1);
  for (size_t i = 0; i < oldest.slots.size(); ++i)
    if (oldest.slots[i] >= 0) last_tokens_[static_cast<size_t>(oldest.slots[i])] = message_[i].token;
  if (!leader()) return;
  result.id = oldest.id;
  result.tokens.assign(message_.begin(), message_.begin() + static_cast<std::ptrdiff_t>(oldest.slots.size()));
}

bool ModelExecutor::collect(StepResult& result) {
  if (unread_.empty()) return false;
  receive(result);
  return true;
}

}  // namespace

std::unique_ptr<Executor> make_model_executor(std::unique_ptr<Model> model, Backend& backend, Groups& groups,
                                              const ExecutorOptions& options) {
  return std::make_unique<ModelExecutor>(std::move(model), backend, groups, options);
}

}  // namespace sluice
