// SPDX-License-Identifier: Apache-2.0
// A grammar as an automaton over bytes that calls rules and counts repetitions. Immutable; shared by threads.
#pragma once

#include <bitset>
#include <cstdint>
#include <limits>
#include <memory>
#include <string_view>
#include <vector>

#include "grammar/expression.h"
#include "grammar/spec.h"
#include "grammar/vocabulary.h"

namespace sluice::grammar {

using StateId = uint32_t;
inline constexpr uint32_t kUnreachable = std::numeric_limits<uint32_t>::max();

class Automaton {
 public:
  enum class Kind : uint8_t {
    kBytes,   // consumes one byte
    kSplit,   // goes on as any of its targets
    kCall,    // runs `target` up to its return, then goes on at `next`
    kLoop,    // runs `target` up to its return, `min` to `max` times, then goes on at `next`
    kReturn,  // of a rule, of a loop's body, or of the whole
  };
  struct Edge {
    uint8_t low, high;
    StateId target;
  };
  struct State {
    Kind kind;
    // kSplit, kLoop: 1 + index of a table of characters, any of which `target` takes and returns from; 0: none. Such a
    // kSplit has `target` and `next` as a kLoop has them, beside its targets.
    uint16_t chars = 0;
    StateId target = 0, next = 0;
    uint32_t min = 0, max = 0;
    uint32_t first = 0, count = 0;  // edges of kBytes, targets of kSplit
    uint32_t left = kUnreachable;   // fewest bytes to the return
  };

  // Throws RequestError when nothing can match, or when a rule begins with itself. Only bytes that `vocabulary` spells
  // are used, so that whatever is begun can be ended.
  Automaton(const Builder& builder, Expr start, const Vocabulary& vocabulary);

  StateId start() const { return start_; }
  const State& state(StateId id) const { return states_[id]; }
  const Edge* edges(const State& s) const { return edges_.data() + s.first; }
  const StateId* targets(const State& s) const { return targets_.data() + s.first; }
  const CharTable& chars(const State& s) const { return *tables_[s.chars - 1u]; }
  size_t size() const { return states_.size(); }

 private:
  friend class Lowering;
  void measure();
  void refuse_left_recursion(const Builder& builder) const;

  std::vector<State> states_;
  std::vector<Edge> edges_;
  std::vector<StateId> targets_;
  std::vector<StateId> rule_starts_;
  std::vector<std::shared_ptr<const CharTable>> tables_;
  StateId start_ = 0;
};

// From text. Throws RequestError(kValidation) with param "grammar" for what is malformed, unsupported, by name, or too
// large.
std::shared_ptr<const Automaton> compile(const GrammarSpec& spec, const Vocabulary& vocabulary);

}  // namespace sluice::grammar
