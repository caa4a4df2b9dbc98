// SPDX-License-Identifier: Apache-2.0
#include "engine/constraints.h"

#include <algorithm>

namespace sluice {
namespace {

constexpr size_t kKept = 16;

}  // namespace

Constraints::Constraints(Backend& backend, SamplerState& sampler, std::shared_ptr<GrammarCompiler> compiler,
                         int64_t slots)
    : backend_(backend), sampler_(sampler), compiler_(std::move(compiler)), slots_(static_cast<size_t>(slots)) {}

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
  if (init.params.grammar.empty()) return;
  slot.matcher = std::make_unique<grammar::Matcher>(runtime(unpack_grammar(init.params.grammar)));
  slot.end_position = init.params.end_position;
  for (const int32_t id : history.last(static_cast<size_t>(init.n_output))) slot.matcher->accept(id);
}

bool Constraints::prepare(const Step& step) {
  bool any = false;
  for (const SampleEntry& e : step.samples) {
    Slot& slot = slots_.at(static_cast<size_t>(e.slot));
    if (e.target >= 0 || !slot.matcher) continue;
    backend_.set_mask(sampler_, e.slot, slot.matcher->mask(slot.end_position - e.position).data());
    any = true;
  }
  return any;
}

void Constraints::accept(const Step& step, std::span<const SampledToken> drawn) {
  for (size_t i = 0; i < step.samples.size(); ++i) {
    const SampleEntry& e = step.samples[i];
    Slot& slot = slots_.at(static_cast<size_t>(e.slot));
    if (e.target < 0 && slot.matcher) slot.matcher->accept(drawn[i].token);
  }
}

}  // namespace sluice
