// SPDX-License-Identifier: Apache-2.0
#include "grammar/automaton.h"

#include <fmt/format.h>

#include <algorithm>
#include <unordered_map>

#include "base/error.h"

namespace sluice::grammar {
namespace {

constexpr size_t kMaxStates = 400000;
constexpr size_t kMaxTables = 8;  // of characters; beyond them repetitions are walked

[[noreturn]] void refuse(const std::string& why) {
  throw RequestError(RequestError::Kind::kValidation, why, "grammar");
}

uint32_t sum(uint32_t a, uint32_t b) {
  return a == kUnreachable || b == kUnreachable || a > kUnreachable - 1 - b ? kUnreachable : a + b;
}

uint32_t times(uint32_t a, uint32_t n) {
  if (n == 0) return 0;
  const uint64_t product = uint64_t{a} * n;
  return a == kUnreachable || product >= kUnreachable ? kUnreachable : static_cast<uint32_t>(product);
}

}  // namespace

// Thompson's construction from the end: each expression is lowered in front of the state that follows it, and once
// only for the same expression and follower.
class Lowering {
 public:
  Lowering(Automaton& a, const Builder& b, const Vocabulary& v) : a_(a), b_(b), vocabulary_(v) {}

  void run(Expr start) {
    return_ = add({Automaton::Kind::kReturn});
    for (size_t i = 0; i < b_.rules().size(); ++i) a_.rule_starts_.push_back(add({Automaton::Kind::kSplit}));
    for (size_t i = 0; i < b_.rules().size(); ++i) {
      const StateId body = lower(b_.rules()[i].body, return_, 0);
      set_targets(a_.rule_starts_[i], {body});
    }
    a_.start_ = lower(start, return_, 0);
  }

 private:
  StateId add(Automaton::State state) {
    if (a_.states_.size() >= kMaxStates)
      refuse(fmt::format("the grammar needs more than {} states; make it smaller", kMaxStates));
    a_.states_.push_back(state);
    return static_cast<StateId>(a_.states_.size() - 1);
  }

  void set_targets(StateId id, const std::vector<StateId>& targets) {
    a_.states_[id].first = static_cast<uint32_t>(a_.targets_.size());
    a_.states_[id].count = static_cast<uint32_t>(targets.size());
    a_.targets_.insert(a_.targets_.end(), targets.begin(), targets.end());
  }

  StateId lower(Expr expr, StateId next, int depth) {
    if (depth > 2000) refuse("the grammar is nested too deep");
    const uint64_t key = uint64_t{expr} << 32 | next;
    if (const auto it = done_.find(key); it != done_.end()) return it->second;
    const StateId id = lower_new(b_.nodes()[expr], next, depth + 1);
    done_.emplace(key, id);
    return id;
  }

  StateId lower_new(const Builder::Node& node, StateId next, int depth) {
    using Kind = Automaton::Kind;
    switch (node.kind) {
      case Builder::Kind::kBytes:
        return bytes(node.bytes & vocabulary_.spelled(), next);
      case Builder::Kind::kSeq:
        for (auto part = node.parts.rbegin(); part != node.parts.rend(); ++part) next = lower(*part, next, depth);
        return next;
      case Builder::Kind::kAlt: {
        std::vector<StateId> ways;
        for (const Expr part : node.parts) ways.push_back(lower(part, next, depth));
        const StateId split = add({Kind::kSplit});
        set_targets(split, ways);
        return split;
      }
      case Builder::Kind::kRule: {
        Automaton::State call{Kind::kCall};
        call.target = a_.rule_starts_[node.rule];
        call.next = next;
        return add(call);
      }
      case Builder::Kind::kRepeat:
        break;
    }
    const Expr part = node.parts[0];
    if (node.max == kNoMax && node.min <= 1) {
      const StateId split = add({Kind::kSplit});
      const StateId body = lower(part, split, depth);
      set_targets(split, {body, next});
      const uint16_t table = mark(split, node.char_class, body, next);
      if (node.min == 0 || table == 0) return node.min == 0 ? split : body;
      const StateId head = add({Kind::kSplit});
      set_targets(head, {body});
      mark(head, node.char_class, body, next);
      return head;
    }
    if (node.max == 1) {
      const StateId body = lower(part, next, depth);
      const StateId split = add({Kind::kSplit});
      set_targets(split, {body, next});
      return split;
    }
    Automaton::State loop{Kind::kLoop};
    loop.target = lower(part, return_, depth);
    loop.next = next;
    loop.min = node.min;
    loop.max = node.max;
    const StateId id = add(loop);
    mark(id, node.char_class, loop.target, next);
    return id;
  }

  uint16_t mark(StateId id, uint32_t char_class, StateId body, StateId next) {
    if (char_class == 0) return 0;
    a_.states_[id].target = body;
    a_.states_[id].next = next;
    const auto [it, fresh] = tables_.try_emplace(char_class, uint16_t{0});
    if (fresh && a_.tables_.size() < kMaxTables) {
      a_.tables_.push_back(vocabulary_.chars(b_.char_classes()[char_class - 1]));
      it->second = static_cast<uint16_t>(a_.tables_.size());
    }
    return a_.states_[id].chars = it->second;
  }

  StateId bytes(const std::bitset<256>& set, StateId next) {
    Automaton::State state{Automaton::Kind::kBytes};
    state.first = static_cast<uint32_t>(a_.edges_.size());
    for (size_t low = 0; low < 256; ++low) {
      if (!set[low]) continue;
      size_t high = low;
      while (high + 1 < 256 && set[high + 1]) ++high;
      a_.edges_.push_back({static_cast<uint8_t>(low), static_cast<uint8_t>(high), next});
      low = high;
    }
    state.count = static_cast<uint32_t>(a_.edges_.size()) - state.first;
    return add(state);
  }

  Automaton& a_;
  const Builder& b_;
  const Vocabulary& vocabulary_;
  StateId return_ = 0;
  std::unordered_map<uint64_t, StateId> done_;
  std::unordered_map<uint32_t, uint16_t> tables_;  // by class of the builder
};

Automaton::Automaton(const Builder& builder, Expr start, const Vocabulary& vocabulary) {
  Lowering(*this, builder, vocabulary).run(start);
  measure();
  if (states_[start_].left == kUnreachable)
    refuse("no answer can satisfy the grammar with this model's vocabulary; check for contradictions");
  refuse_left_recursion(builder);
}

// The fewest bytes to the return, for every state: until nothing changes. Targets mostly come first.
void Automaton::measure() {
  for (bool changed = true; changed;) {
    changed = false;
    for (State& s : states_) {
      uint32_t least = kUnreachable;
      switch (s.kind) {
        case Kind::kReturn:
          least = 0;
          break;
        case Kind::kBytes:
          for (uint32_t i = 0; i < s.count; ++i)
            least = std::min(least, sum(1, states_[edges_[s.first + i].target].left));
          break;
        case Kind::kSplit:
          for (uint32_t i = 0; i < s.count; ++i) least = std::min(least, states_[targets_[s.first + i]].left);
          break;
        case Kind::kCall:
          least = sum(states_[s.target].left, states_[s.next].left);
          break;
        case Kind::kLoop:
          least = sum(times(states_[s.target].left, s.min), states_[s.next].left);
          break;
      }
      if (least < s.left) {
        s.left = least;
        changed = true;
      }
    }
  }
  // Passes that may be empty make up any minimum.
  for (State& s : states_)
    if (s.kind == Kind::kLoop && states_[s.target].left == 0) s.min = 0;
}

// A rule that reaches itself without a byte would be called without end; so would a counted loop of nothing.
void Automaton::refuse_left_recursion(const Builder& builder) const {
  const auto nullable = [&](StateId id) { return states_[id].left == 0; };
  std::vector<uint32_t> rule_of(states_.size(), kUnreachable);
  for (size_t r = 0; r < rule_starts_.size(); ++r) rule_of[rule_starts_[r]] = static_cast<uint32_t>(r);
  std::vector<std::vector<uint32_t>> begins(rule_starts_.size());  // rules that a rule may begin with
  std::vector<StateId> work;
  std::vector<uint32_t> seen(states_.size(), kUnreachable);
  for (uint32_t r = 0; r < rule_starts_.size(); ++r) {
    const auto push = [&](StateId id) {
      if (seen[id] == r || states_[id].left == kUnreachable) return;
      seen[id] = r;
      work.push_back(id);
    };
    push(rule_starts_[r]);
    while (!work.empty()) {
      const State& s = states_[work.back()];
      work.pop_back();
      if (s.kind == Kind::kSplit)
        for (uint32_t i = 0; i < s.count; ++i) push(targets_[s.first + i]);
      if (s.kind == Kind::kCall) {
        begins[r].push_back(rule_of[s.target]);
        if (nullable(s.target)) push(s.next);
      }
      if (s.kind == Kind::kLoop) {
        push(s.target);
        if (s.min == 0 || nullable(s.target)) push(s.next);
      }
    }
  }
  std::vector<uint8_t> mark(begins.size(), 0);  // 1: on the path, 2: done
  std::vector<std::pair<uint32_t, size_t>> path;
  for (uint32_t root = 0; root < begins.size(); ++root) {
    if (mark[root] != 0) continue;
    path.assign(1, {root, 0});
    mark[root] = 1;
    while (!path.empty()) {
      auto& [rule, next] = path.back();
      if (next == begins[rule].size()) {
        mark[rule] = 2;
        path.pop_back();
        continue;
      }
      const uint32_t callee = begins[rule][next++];
      if (mark[callee] == 1)
        refuse(
            fmt::format("the rule {} begins with itself (left recursion), which is not supported; let it begin with "
                        "something else",
                        builder.rules()[callee].name));
      if (mark[callee] == 0) {
        mark[callee] = 1;
        path.push_back({callee, 0});
      }
    }
  }
  for (const State& s : states_) {
    if (s.kind == Kind::kLoop && s.max > 1000 && s.max != kNoMax && nullable(s.target))
      refuse("a part that may be empty is repeated more than 1000 times; let it not be empty");
  }
}

}  // namespace sluice::grammar
