// SPDX-License-Identifier: Apache-2.0
#include "engine/constraints.h"

#include <pthread.h>

#include <algorithm>

namespace sluice {
namespace {

constexpr size_t kKept = 16;
constexpr int kAtOnce = 4;  // masks that are set without handing them to the thread, if they are known

}  // namespace

Constraints::Constraints(Backend& backend, SamplerState& sampler, std::shared_ptr<GrammarCompiler> compiler,
                         int64_t slots)
    : backend_(backend), sampler_(sampler), compiler_(std::move(compiler)), slots_(static_cast<size_t>(slots)) {
  asked_.reserve(slots_.size());
  found_.reserve(2 * slots_.size());
}

Constraints::~Constraints() {
  if (!thread_.joinable()) return;
  {
    std::lock_guard lock(mutex_);
    leaving_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

std::shared_ptr<grammar::Runtime> Constraints::runtime(const GrammarSpec& spec) {
  const std::shared_ptr<const grammar::Automaton> automaton = compiler_->compile(spec);
  ++clock_;
  std::erase_if(runtimes_, [&](const Kept& kept) { return kept.automaton == automaton && kept.runtime->large(); });
  for (Kept& kept : runtimes_) {
    if (kept.automaton != automaton) continue;
    kept.used = clock_;
    return kept.runtime;
  }
  if (runtimes_.size() >= kKept) runtimes_.erase(std::ranges::min_element(runtimes_, {}, &Kept::used));
  runtimes_.push_back({automaton, std::make_shared<grammar::Runtime>(automaton, compiler_->vocabulary()), clock_});
  return runtimes_.back().runtime;
}

void Constraints::set_slot(const SlotInit& init, std::span<const int32_t> history) {
  Slot& slot = slots_.at(static_cast<size_t>(init.slot));
  slot.matcher.reset();
  slot.constrained = !init.params.grammar.empty();
  if (!slot.constrained) return;
  slot.grammar = init.params.grammar;
  const std::span<const int32_t> output = history.last(static_cast<size_t>(init.n_output));
  slot.history.assign(output.begin(), output.end());
  slot.end_position = init.params.end_position;
  slot.position = -1;
}

void Constraints::prepare(const Step& step) {
  for (const SampleEntry& e : step.samples) {
    const Slot& slot = slots_.at(static_cast<size_t>(e.slot));
    if (e.target >= 0 || !slot.constrained || slot.position == e.position) continue;
    wait();
    ask(e.slot, e.position);
  }
  post();
}

void Constraints::accept(std::span<const SampleEntry> samples, std::span<const SampledToken> drawn) {
  wait();
  int at_once = 0;
  for (size_t i = 0; i < samples.size(); ++i) {
    const SampleEntry& e = samples[i];
    Slot& slot = slots_.at(static_cast<size_t>(e.slot));
    if (e.target >= 0 || !slot.constrained) continue;
    slot.matcher->accept(drawn[i].token);
    if (slot.matcher->ended()) {
      slot.position = -1;  // as a rule no other draw comes
      continue;
    }
    slot.position = e.position + 1;
    if (slot.matcher->known() && at_once++ < kAtOnce) {
      find_mask(e.slot);
    } else {
      asked_.push_back(e.slot);
    }
  }
  post();
}

void Constraints::ask(int32_t slot, int64_t position) {
  slots_[static_cast<size_t>(slot)].position = position;
  asked_.push_back(slot);
}

void Constraints::find_mask(int32_t id) {
  Slot& slot = slots_[static_cast<size_t>(id)];
  if (!slot.matcher) {
    slot.matcher = std::make_unique<grammar::Matcher>(runtime(unpack_grammar(slot.grammar)));
    for (const int32_t token : slot.history) slot.matcher->accept(token);
  }
  const std::span<const uint32_t> mask = slot.matcher->mask(slot.end_position - slot.position);
  if (!backend_.asynchronous()) return backend_.set_mask(sampler_, id, mask.data());
  slot.mask.assign(mask.begin(), mask.end());
  found_.push_back(id);
}

void Constraints::post() {
  {
    std::lock_guard lock(mutex_);
    if (working_ || asked_.empty()) return;  // in this order: asked_ is the thread's while it works
    working_ = true;
    if (!thread_.joinable()) thread_ = std::thread([this] { work(); });
  }
  changed_.notify_all();
}

void Constraints::wait() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return !working_; });
  if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
  for (const int32_t slot : found_) backend_.set_mask(sampler_, slot, slots_[static_cast<size_t>(slot)].mask.data());
  found_.clear();
}

void Constraints::work() {
  pthread_setname_np(pthread_self(), "masks");
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return working_ || leaving_; });
    if (leaving_) return;
    lock.unlock();
    try {
      for (const int32_t slot : asked_) find_mask(slot);
    } catch (...) {
      failure_ = std::current_exception();
    }
    asked_.clear();
    lock.lock();
    working_ = false;
    changed_.notify_all();
  }
}

}  // namespace sluice
