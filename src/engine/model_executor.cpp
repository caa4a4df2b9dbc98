// SPDX-License-Identifier: Apache-2.0
// The executor of a real model.
//
// Pipeline. Every rank runs every step in order; hidden states travel inside Model::forward. After each step a rank of
// the last stage sends the drawn tokens (one byte when there are none) to stage 0, same tp index. Stage 0 receives them
// in step order: rank 0 in collect(), and every rank of stage 0 before it runs step j for all steps up to j - stages.
// The leader has at most `stages` steps unfinished, so those messages have been sent by ranks that wait for nothing of
// step j: no cycle, provided that send() does not wait for its receiver, which comm's transports guarantee by copying,
// or by a way of their own for these messages (TokenReturn), which stage 0 asks for as soon as it has queued step j.
//
// One stage on an asynchronous backend: run() queues step j and then waits for the result of step j - 1, so that the
// device has the next step before it is done with this one.
//
// Decode steps are padded to a few sizes, whose ops the backend may record and replay.
//
// Constrained draws need their masks, and those what was drawn before. On an asynchronous backend such a step is queued
// in two parts: the logits, whose computing hides the wait for the last step's tokens and the search for masks, and the
// draws.
#include <fmt/format.h>

#include <algorithm>
#include <unordered_map>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "engine/cache_size.h"
#include "engine/constraints.h"
#include "engine/executor.h"
#include "engine/step_tensors.h"

namespace sluice {
namespace {

class ModelExecutor : public Executor {
 public:
  ModelExecutor(std::unique_ptr<Model> model, Backend& backend, Groups& groups, const ExecutorOptions& options);
  ~ModelExecutor() override { backend_.forget_steps(); }
  const ExecutorInfo& info() const override { return info_; }
  void run(const Step& step, StepResult& result) override;
  bool collect(StepResult& result) override;
  double waited_seconds() const override { return waited_; }

 private:
  struct Unread {  // of stage 0, or of rank 0 alone: a step whose tokens are still under way
    uint64_t id;
    size_t samples;
    std::vector<int32_t> slots;  // in a pipeline: of its samples; -1 for a score
    bool constrained;            // accept() is due, of constrained_
  };

  void size(const ExecutorOptions& options);
  size_t step_bytes() const;
  void warm();
  int64_t bucket_of(const Step& step) const;
  bool keeps_to_grammar(const Step& step) const;
  void compute(const BatchView& batch, uint64_t key);
  void compute_constrained(const Step& step, const BatchView& batch, uint64_t key, StepResult& result);
  Tensor forward(const BatchView& batch);
  void draw(const Tensor& logits);
  void deliver(const Step& step, bool constrained, StepResult& result);
  void receive(StepResult& result);
  static size_t message_bytes(size_t n) { return n > 0 ? n * sizeof(SampledToken) : 1; }
  Tensor bytes_of(std::vector<SampledToken>& tokens, size_t n);
  bool pipelined() const { return groups_.stages() > 1; }
  bool leader() const { return groups_.world->rank() == 0; }
  bool overlaps() const { return !pipelined() && leader() && backend_.asynchronous(); }

  std::unique_ptr<Model> model_;
  Backend& backend_;
  Groups& groups_;
  ExecutorInfo info_;
  std::unique_ptr<StepTensors> tensors_;
  std::unique_ptr<SamplerState> sampler_;        // on the last stage
  std::unique_ptr<Constraints> constraints_;     // where sampler_ is and grammars are offered
  std::vector<char> with_grammar_;               // [slots], where grammars are offered
  Buffer drawn_;                                 // u8 [max_logits, sizeof(SampledToken)], on the last stage
  std::vector<SampledToken> message_;            // of a pipeline: what travels from the last stage to the first
  std::unordered_map<uint64_t, Tensor> logits_;  // of constrained steps, by the key that they are recorded under
  std::vector<SampleEntry> constrained_;         // samples of the constrained step in unread_
  std::vector<int32_t> last_tokens_;             // [slots], of stage 0 in a pipeline
  double waited_ = 0;                            // seconds
  std::vector<Unread> unread_;                   // oldest first
  Step resolved_;                                // of stage 0 in a pipeline: a step without unknown tokens
};

ModelExecutor::ModelExecutor(std::unique_ptr<Model> model, Backend& backend, Groups& groups,
                             const ExecutorOptions& options)
    : model_(std::move(model)), backend_(backend), groups_(groups) {
  info_.model = model_->info();
  info_.cache_groups = model_->cache_groups();
  info_.stages = groups_.stages();
  info_.full_sampler = backend_.takes_masks();
  info_.searches = true;
  info_.enough_rows = backend_.enough_rows();
  if (backend_.takes_masks()) info_.grammars = options.grammars;
  size(options);
  model_->allocate(info_.limits);
  tensors_ = std::make_unique<StepTensors>(backend_, info_.limits, info_.slots, info_.cache_groups);
  if (info_.grammars) with_grammar_.resize(static_cast<size_t>(info_.slots));
  if (groups_.last_stage()) {
    if (info_.grammars) constraints_ = std::make_unique<Constraints>(backend_, *sampler_, info_.grammars, info_.slots);
    drawn_ = backend_.allocate(static_cast<size_t>(info_.limits.max_logits) * sizeof(SampledToken));
  }
  if (pipelined() && groups_.first_stage()) last_tokens_.resize(static_cast<size_t>(info_.slots), -1);
  if (backend_.asynchronous()) warm();
}

// The largest decode step, of padding alone: first use of everything, then its recording. Nothing is drawn or cached.
void ModelExecutor::warm() {
  const double started = monotonic_seconds();
  const int64_t bucket = std::min({info_.limits.max_seqs, info_.limits.max_rows, info_.limits.max_logits});
  for (int pass = 0; pass < 2; ++pass) compute(tensors_->fill({}, bucket), static_cast<uint64_t>(bucket));
  char done = 0;
  const Buffer flag = backend_.allocate(1);
  backend_.copy_out(&done, flag.view(DType::kU8, {1}));
  info_.warm_seconds = monotonic_seconds() - started;
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

  if (info_.model.decoder_start >= 0) limits.max_encoder = std::min(options.max_rows, options.max_context);

  if (groups_.last_stage()) sampler_ = backend_.make_sampler(info_.slots, info_.model.vocab);  // not free any more

  // Six tenths of what is free leave room for the step's scratch memory and for others.
  size_t bytes = options.cache_bytes > 0 ? options.cache_bytes : backend_.free_bytes() / 10 * 6;
  if (options.spare_bytes) {
    const size_t free_bytes = backend_.free_bytes(), others = *options.spare_bytes + step_bytes();
    bytes = std::min(bytes, free_bytes - std::min(free_bytes, others));
  }
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
    throw Error(fmt::format("the cache of {} MB holds not one block of {} tokens{}; give it more memory", bytes >> 20,
                            limits.block_size,
                            options.spare_bytes ? fmt::format(" beside {} MB of a step", step_bytes() >> 20) : ""));
  bool window = false;
  for (const CacheGroupSpec& g : info_.cache_groups) window |= g.growth == CacheGroupSpec::Growth::kWindow;
  if (leader() && !window && blocks * limits.block_size < limits.max_context)
    log_warning(fmt::format("the cache holds {} tokens, less than the context of {}: longer requests are refused",
                            blocks * limits.block_size, limits.max_context));
}

// Device memory that a step takes at most, what the sampler holds already aside.
size_t ModelExecutor::step_bytes() const {
  const RunLimits& limits = info_.limits;
  size_t out = model_->step_bytes(limits) +
               StepTensors::bytes(limits, info_.slots, static_cast<int64_t>(info_.cache_groups.size()));
  if (groups_.last_stage())  // drawn tokens, and scores on their way to them
    out += static_cast<size_t>(limits.max_logits) *
           (sizeof(SampledToken) + static_cast<size_t>(info_.model.vocab) * sizeof(float));
  return out;
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

  if (info_.grammars)
    for (const SlotInit& init : step->inits)
      with_grammar_.at(static_cast<size_t>(init.slot)) = !init.params.grammar.empty();
  if (constraints_ && !step->inits.empty()) constraints_->wait();
  if (sampler_)
    for (const SlotInit& init : step->inits) {
      const std::span history(step->history.data() + init.history_begin, static_cast<size_t>(init.n_history));
      backend_.set_slot(*sampler_, init.slot, init.params, history.data(), init.n_history, init.n_output);
      if (constraints_) constraints_->set_slot(init, history);
    }
  const bool constrained = keeps_to_grammar(*step);
  const int64_t bucket = bucket_of(*step);
  const BatchView batch = tensors_->fill(*step, bucket);
  for (int32_t g = 0; g < static_cast<int32_t>(info_.cache_groups.size()); ++g)
    if (const Tensor pairs = tensors_->copies(*step, g)) model_->copy_blocks(g, pairs);
  if (constrained) {
    compute_constrained(*step, batch, static_cast<uint64_t>(bucket), result);
  } else {
    compute(batch, static_cast<uint64_t>(bucket));
  }
  if (sampler_) deliver(*step, constrained, result);
  if (reads) {
    unread_.push_back({step->id, step->samples.size(), {}, false});
    for (const SampleEntry& e : step->samples)
      unread_.back().slots.push_back(e.target == SampleEntry::kDraw ? e.slot : -1);
    if (groups_.back) groups_.back->expect(message_bytes(step->samples.size()));
  }
}

// Rows that a decode step is padded to; 0 for any other step, and where padding buys nothing.
int64_t ModelExecutor::bucket_of(const Step& step) const {
  const int64_t rows = step.rows();
  if (!backend_.asynchronous() || rows == 0 || rows != static_cast<int64_t>(step.sequences.size()) ||
      rows != static_cast<int64_t>(step.samples.size()))
    return 0;
  for (size_t i = 0; i < step.samples.size(); ++i)
    if (step.samples[i].row != static_cast<int32_t>(i) || step.sequences[i].phase != Phase::kDecode) return 0;
  return std::min(
      {backend_.decode_bucket(rows), info_.limits.max_seqs, info_.limits.max_rows, info_.limits.max_logits});
}

// Whether a draw of the step keeps to a grammar: the same on every stage, because a message between two of them must be
// recorded by both or by none.
bool ModelExecutor::keeps_to_grammar(const Step& step) const {
  return std::ranges::any_of(step.samples, [&](const SampleEntry& e) {
    return e.target < 0 && !with_grammar_.empty() && with_grammar_.at(static_cast<size_t>(e.slot));
  });
}

// From token ids to drawn tokens, on the device alone.
void ModelExecutor::compute(const BatchView& batch, uint64_t key) {
  backend_.run_step(key, [this, &batch] {
    const Tensor logits = forward(batch);
    if (constraints_ && !backend_.asynchronous()) constraints_->wait();
    if (sampler_) draw(logits);
  });
}

// The same with the host in between.
void ModelExecutor::compute_constrained(const Step& step, const BatchView& batch, uint64_t key, StepResult& result) {
  constexpr uint64_t kLogitsAlone = uint64_t{1} << 32;
  if (sampler_ && !backend_.asynchronous()) constraints_->prepare(step);
  struct Work {
    ModelExecutor& self;
    const BatchView& batch;
    Tensor logits;
  } work{*this, batch, {}};
  backend_.run_step(key == 0 ? 0 : key | kLogitsAlone, [&work] { work.logits = work.self.forward(work.batch); });
  if (!sampler_) return;
  Tensor& logits = work.logits;
  if (logits.data != nullptr) {
    if (key != 0) logits_[key] = logits;
  } else {
    logits = logits_.at(key);  // replayed
  }
  if (backend_.asynchronous()) {
    if (overlaps() && !unread_.empty()) receive(result);
    constraints_->prepare(step);
  }
  constraints_->wait();
  draw(logits);
}

Tensor ModelExecutor::forward(const BatchView& batch) {
  if (!pipelined()) backend_.resolve_tokens(*sampler_, batch.tokens, tensors_->row_slots());
  return model_->forward(batch);
}

void ModelExecutor::draw(const Tensor& logits) {
  const Tensor entries = tensors_->entries();
  if (entries.dim(0) == 0) return;
  const Tensor drawn = drawn_.view(DType::kU8, {entries.dim(0), static_cast<int64_t>(sizeof(SampledToken))});
  backend_.sample(*sampler_, drawn, logits, entries);
}

// Sends the drawn tokens of a step, padding left out, where they are wanted.
void ModelExecutor::deliver(const Step& step, bool constrained, StepResult& result) {
  const auto n = static_cast<int64_t>(step.samples.size());
  const Tensor drawn = drawn_.view(DType::kU8, {n, static_cast<int64_t>(sizeof(SampledToken))});
  if (pipelined()) {
    if (groups_.back) groups_.back->send(n > 0 ? drawn : drawn_.view(DType::kU8, {1}));
    if (groups_.back && !constrained) return;
    const Tensor message = bytes_of(message_, static_cast<size_t>(n));
    if (n > 0) backend_.copy_out(message_.data(), drawn);
    if (constrained) constraints_->accept(step.samples, message_);
    if (!groups_.back) groups_.pp->send(message, 0);
  } else if (overlaps()) {
    if (n > 0) backend_.start_copy_out(drawn);
    unread_.push_back({step.id, static_cast<size_t>(n), {}, constrained});
    if (unread_.size() > 1) receive(result);
    if (constrained) constrained_.assign(step.samples.begin(), step.samples.end());
  } else if (leader() || constrained) {
    result.tokens.resize(static_cast<size_t>(n));
    if (n > 0) backend_.copy_out(result.tokens.data(), drawn);
    if (constrained) constraints_->accept(step.samples, result.tokens);
    if (leader()) {
      result.id = step.id;
    } else {
      result.tokens.clear();
    }
  }
}

// The message of a step with n samples; resizes `tokens` to hold it.
Tensor ModelExecutor::bytes_of(std::vector<SampledToken>& tokens, size_t n) {
  tokens.resize(std::max<size_t>(n, 1));
  return Tensor(tokens.data(), DType::kU8, {static_cast<int64_t>(message_bytes(n))});
}

// Tokens of the oldest unread step. Only the leader has a use for the whole; the others keep what a later step may ask
// for.
void ModelExecutor::receive(StepResult& result) {
  const Unread oldest = std::move(unread_.front());
  unread_.erase(unread_.begin());
  const Tensor message = bytes_of(message_, oldest.samples);
  if (!pipelined()) {
    const double started = monotonic_seconds();
    if (oldest.samples > 0) backend_.finish_copy_out(message_.data());
    waited_ += monotonic_seconds() - started;
  } else if (groups_.back) {
    groups_.back->receive(message_.data(), message.bytes());
  } else {
    groups_.pp->recv(message, groups_.stages() - 1);
  }
  for (size_t i = 0; i < oldest.slots.size(); ++i)
    if (oldest.slots[i] >= 0) last_tokens_[static_cast<size_t>(oldest.slots[i])] = message_[i].token;
  if (oldest.constrained) constraints_->accept(constrained_, message_);
  if (!leader()) return;
  result.id = oldest.id;
  result.tokens.assign(message_.begin(), message_.begin() + static_cast<std::ptrdiff_t>(oldest.samples));
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
