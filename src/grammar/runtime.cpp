// SPDX-License-Identifier: Apache-2.0
#include "grammar/runtime.h"

#include <algorithm>
#include <array>

namespace sluice::grammar {
namespace {

constexpr size_t kMaxConfigs = 4096;     // of one place; what is beyond is not followed
constexpr size_t kMaxCache = 96u << 20;  // bytes of rows and masks
constexpr size_t kShortBranch = 64;      // nodes: tokens of one first byte that are not worth keeping apart

uint32_t sum(uint32_t a, uint32_t b) {
  return a > kUnreachable - 1 - std::min(b, kUnreachable - 1) ? kUnreachable - 1 : a + b;
}

uint64_t mix(uint64_t h, uint64_t v) {
  h = (h ^ v) * 0x9e3779b97f4a7c15u;
  return h ^ (h >> 29);
}

void set(std::vector<uint32_t>& words, int32_t id) {
  words[static_cast<size_t>(id) / 32] |= 1u << (static_cast<uint32_t>(id) % 32);
}

}  // namespace

size_t Runtime::KeyHash::operator()(const std::array<uint32_t, 3>& key) const {
  return mix(mix(mix(1, key[0]), key[1]), key[2]);
}

Runtime::Runtime(std::shared_ptr<const Automaton> automaton, std::shared_ptr<const Vocabulary> vocabulary)
    : automaton_(std::move(automaton)), vocabulary_(std::move(vocabulary)), longest_(vocabulary_->all().depth) {
  frames_.push_back({0, 0, 0, 0, 0});
  places_.emplace_back();  // nowhere
  seen_.resize(1024);
  seen_round_.resize(1024);
  path_.resize(longest_ + 1);
  ++round_;
  reach(automaton_->start(), 0);
  settle();
}

uint32_t Runtime::frame(uint32_t parent, StateId state, uint32_t count) {
  const auto [it, fresh] = frame_ids_.try_emplace({parent, state, count}, static_cast<uint32_t>(frames_.size()));
  if (!fresh) return it->second;
  const uint32_t id = it->second;
  const Automaton::State& s = automaton_->state(state);
  uint32_t left = sum(automaton_->state(s.next).left, frames_[parent].left);
  if (s.kind == Automaton::Kind::kLoop) {
    const uint64_t passes = s.min > count + 1 ? s.min - count - 1 : 0;
    const uint64_t bytes = passes * automaton_->state(s.target).left;
    left = sum(left, static_cast<uint32_t>(std::min<uint64_t>(bytes, kUnreachable - 1)));
  }
  frames_.push_back({parent, state, count, left, id});
  const uint32_t clipped = clip(parent, state, count);
  frames_[id].clipped = clipped;
  return id;
}

// Frames that no token can tell apart have one to stand for all: a count is only known as far as one token can bring
// it.
uint32_t Runtime::clip(uint32_t parent, StateId state, uint32_t count) {
  const Automaton::State& s = automaton_->state(state);
  if (s.kind == Automaton::Kind::kLoop) {
    const uint32_t far = longest_ + 1;
    if (count < s.min) {
      if (s.min - count > far) count = s.min - far;
    } else if (s.max != kNoMax && s.max - count > far) {
      count = std::max(s.min, s.max - far);
    }
  }
  return frame(frames_[parent].clipped, state, count);
}

// Adds what can be reached without a byte to reached_.
void Runtime::reach(StateId first_state, uint32_t first_frame) {
  using Kind = Automaton::Kind;
  const auto push = [&](StateId state, uint32_t in) {
    if (automaton_->state(state).left == kUnreachable) return;
    if (2 * n_seen_ >= seen_.size()) {  // grow, keeping this round's members
      std::vector<uint64_t> members;
      for (size_t i = 0; i < seen_.size(); ++i)
        if (seen_round_[i] == round_) members.push_back(seen_[i]);
      seen_.assign(2 * seen_.size(), 0);
      seen_round_.assign(seen_.size(), 0);
      for (const uint64_t m : members) {
        size_t at = mix(1, m) & (seen_.size() - 1);
        while (seen_round_[at] == round_) at = (at + 1) & (seen_.size() - 1);
        seen_[at] = m;
        seen_round_[at] = round_;
      }
    }
    const uint64_t key = uint64_t{state} << 32 | in;
    size_t at = mix(1, key) & (seen_.size() - 1);
    for (; seen_round_[at] == round_; at = (at + 1) & (seen_.size() - 1))
      if (seen_[at] == key) return;
    if (n_seen_ >= 16 * kMaxConfigs) return;
    seen_[at] = key;
    seen_round_[at] = round_;
    ++n_seen_;
    work_.push_back({state, in});
  };
  push(first_state, first_frame);
  while (!work_.empty()) {
    const Config c = work_.back();
    work_.pop_back();
    const Automaton::State& s = automaton_->state(c.state);
    switch (s.kind) {
      case Kind::kBytes:
        if (reached_.size() < kMaxConfigs) reached_.push_back(c);
        break;
      case Kind::kSplit:
        if (s.chars != 0) reached_.push_back(c);
        for (uint32_t i = 0; i < s.count; ++i) push(automaton_->targets(s)[i], c.frame);
        break;
      case Kind::kCall:
        // What returns at once leaves no frame: right recursion runs in constant space.
        push(s.target, automaton_->state(s.next).kind == Kind::kReturn ? c.frame : frame(c.frame, c.state, 0));
        break;
      case Kind::kLoop:
        if (s.min == 0) push(s.next, c.frame);
        push(s.target, frame(c.frame, c.state, 0));
        if (s.chars != 0) reached_.push_back({c.state, frame(c.frame, c.state, 0)});
        break;
      case Kind::kReturn: {
        if (c.frame == 0) {
          reached_.push_back(c);
          break;
        }
        const Frame f = frames_[c.frame];
        const Automaton::State& caller = automaton_->state(f.state);
        if (caller.kind == Kind::kCall) {
          push(caller.next, f.parent);
          break;
        }
        const uint32_t done = f.count + 1;
        if (done >= caller.min) push(caller.next, f.parent);
        if (done < caller.max) {
          const uint32_t again = frame(f.parent, f.state, caller.max == kNoMax ? std::min(done, caller.min) : done);
          push(caller.target, again);
          if (caller.chars != 0) reached_.push_back({f.state, again});
        }
        break;
      }
    }
  }
}

// The place of reached_, which is left empty.
PlaceId Runtime::settle() {
  n_seen_ = 0;
  if (reached_.empty()) return kNowhere;
  if (!std::ranges::is_sorted(reached_)) std::ranges::sort(reached_);
  reached_.erase(std::unique(reached_.begin(), reached_.end()), reached_.end());
  uint64_t hash = reached_.size();
  for (const Config& c : reached_) hash = mix(hash, uint64_t{c.state} << 32 | c.frame);
  const auto [begin, end] = place_ids_.equal_range(hash);
  for (auto it = begin; it != end; ++it) {
    const Place& p = places_[it->second];
    if (std::ranges::equal(reached_, std::span(configs_.data() + p.first, p.count))) {
      reached_.clear();
      return it->second;
    }
  }
  Place p;
  p.first = static_cast<uint32_t>(configs_.size());
  p.count = static_cast<uint32_t>(reached_.size());
  for (const Config& c : reached_) {
    const Automaton::State& s = automaton_->state(c.state);
    if (s.kind == Automaton::Kind::kBytes) p.left = std::min(p.left, sum(s.left, frames_[c.frame].left));
    p.accepts = p.accepts || s.kind == Automaton::Kind::kReturn;
  }
  if (p.accepts) p.left = 0;
  configs_.insert(configs_.end(), reached_.begin(), reached_.end());
  reached_.clear();
  const auto id = static_cast<PlaceId>(places_.size());
  places_.push_back(p);
  place_ids_.emplace(hash, id);
  return id;
}

PlaceId Runtime::clip(PlaceId id) {
  if (places_[id].clipped != kNowhere) return places_[id].clipped;
  const Place p = places_[id];
  reached_.clear();
  uint32_t least = kUnreachable, most = 0;
  for (uint32_t i = 0; i < p.count; ++i) {
    const Config c = configs_[p.first + i];
    const Frame& f = frames_[c.frame];
    reached_.push_back({c.state, f.clipped});
    const uint32_t nearer = f.left - std::min(f.left, frames_[f.clipped].left);
    least = std::min(least, nearer);
    most = std::max(most, nearer);
  }
  const PlaceId clipped = settle();
  places_[clipped].clipped = clipped;
  places_[id].clipped = clipped;
  places_[id].uneven = most - least;
  return clipped;
}

// The bytes of `alike`, `byte` among them, lead to the same place.
PlaceId Runtime::find_next(PlaceId from, uint8_t byte, Automaton::Edge& alike) {
  alike = {0, 255, 0};
  const Place p = places_[from];
  ++round_;
  n_seen_ = 0;
  reached_.clear();
  for (uint32_t i = 0; i < p.count; ++i) {
    const Config c = configs_[p.first + i];
    const Automaton::State& s = automaton_->state(c.state);
    if (s.kind != Automaton::Kind::kBytes) continue;
    const Automaton::Edge* edges = automaton_->edges(s);
    for (uint32_t e = 0; e < s.count; ++e) {
      if (byte > edges[e].high) {
        alike.low = std::max<uint8_t>(alike.low, edges[e].high + 1);
        continue;
      }
      if (byte < edges[e].low) {
        alike.high = std::min<uint8_t>(alike.high, edges[e].low - 1);
        continue;
      }
      alike = {std::max(alike.low, edges[e].low), std::min(alike.high, edges[e].high), 0};
      const Automaton::State& to = automaton_->state(edges[e].target);
      if (to.kind != Automaton::Kind::kBytes)
        reach(edges[e].target, c.frame);
      else if (to.left != kUnreachable && reached_.size() < kMaxConfigs)
        reached_.push_back({edges[e].target, c.frame});  // settle() finds what is twice
    }
  }
  return settle();
}

// Bytes that no config takes lead nowhere; the others are not known.
uint32_t Runtime::make_row(PlaceId id) {
  rows_.emplace_back().fill(static_cast<int32_t>(kNowhere));
  int32_t* const row = rows_.back().data();
  const Place& p = places_[id];
  for (uint32_t i = 0; i < p.count; ++i) {
    const Automaton::State& s = automaton_->state(configs_[p.first + i].state);
    if (s.kind != Automaton::Kind::kBytes) continue;
    const Automaton::Edge* edges = automaton_->edges(s);
    for (uint32_t e = 0; e < s.count; ++e) std::fill(row + edges[e].low, row + edges[e].high + 1, -1);
  }
  return static_cast<uint32_t>(rows_.size());
}

PlaceId Runtime::next(PlaceId from, uint8_t byte) {
  if (from == kNowhere) return kNowhere;
  if (places_[from].row == 0) places_[from].row = make_row(from);
  std::array<int32_t, 256>& row = rows_[places_[from].row - 1u];
  if (row[byte] < 0) {
    Automaton::Edge alike{};
    const PlaceId to = find_next(from, byte, alike);
    std::fill(row.begin() + alike.low, row.begin() + alike.high + 1, static_cast<int32_t>(to));
  }
  return static_cast<PlaceId>(row[byte]);
}

PlaceId Runtime::advance(PlaceId from, std::string_view text) {
  for (const char c : text) from = next(from, static_cast<uint8_t>(c));
  return from;
}

std::bitset<256> Runtime::taken(std::span<const Config> configs, std::span<const Config> except) const {
  std::bitset<256> bytes;
  for (const Config& c : configs) {
    const Automaton::State& s = automaton_->state(c.state);
    if (s.kind != Automaton::Kind::kBytes || std::ranges::find(except, c) != except.end()) continue;
    const Automaton::Edge* edges = automaton_->edges(s);
    for (uint32_t e = 0; e < s.count; ++e)
      for (size_t byte = edges[e].low; byte <= edges[e].high; ++byte) bytes.set(byte);
  }
  return bytes;
}

// The run of a place that spares the longest walk. One that does not hold every token of its table must be alone, for
// the others would have to be walked.
Runtime::Run Runtime::run(PlaceId id) {
  Run best;
  const Place p = places_[id];
  std::vector<Config> body;
  for (uint32_t i = 0; i < p.count; ++i) {
    const Config c = configs_[p.first + i];
    const Automaton::State& s = automaton_->state(c.state);
    if (s.chars == 0) continue;
    const bool loop = s.kind == Automaton::Kind::kLoop;
    Run found;
    found.table = &automaton_->chars(s);
    found.most = loop && s.max != kNoMax ? s.max - frames_[c.frame].count : kNoMax;
    found.left = loop ? frames_[c.frame].left : sum(automaton_->state(s.next).left, frames_[c.frame].left);
    found.falls = loop && s.min > frames_[c.frame].count + 1;
    const auto closure = [&](StateId state, uint32_t frame) {
      ++round_;
      n_seen_ = 0;
      reached_.clear();
      reach(state, frame);
      n_seen_ = 0;
    };
    closure(s.target, c.frame);
    body.swap(reached_);
    closure(s.next, loop ? frames_[c.frame].parent : c.frame);
    const auto others = taken(reached_, body) | taken(std::span(configs_.data() + p.first, p.count), body);
    found.alone = (others & found.table->leads()).none();
    found.after = found.alone ? taken(body) | taken(reached_) : ~std::bitset<256>();
    reached_.clear();
    if (!found.alone && found.most < found.table->longest()) continue;
    if (best.table == nullptr || found.most > best.most) best = found;
  }
  return best;
}

// Calls accept(tokens, bytes to an end) for every node of the tree in [begin, end) that can be reached; path_ holds the
// place before the first.
template <class Accept>
void Runtime::walk(const TokenTree& tree, size_t begin, size_t end, Accept accept) {
  for (size_t i = begin; i < end;) {
    const TokenTree::Node& node = tree.nodes[i];
    const PlaceId to = next(path_[node.depth], node.byte);
    if (to == kNowhere) {
      i = node.end;
      continue;
    }
    path_[node.depth + 1u] = to;
    if (node.n_tokens > 0) accept(std::span(tree.tokens.data() + node.first_token, node.n_tokens), places_[to].left);
    ++i;
  }
}

// The same for all tokens but those whose first byte is skipped.
template <class Accept>
void Runtime::walk_all(PlaceId from, const std::bitset<256>& skip, Accept accept) {
  const TokenTree& tree = vocabulary_->all();
  path_[0] = from;
  for (size_t i = 0, end = 0; i < tree.nodes.size(); i = end) {
    end = tree.nodes[i].end;
    const uint8_t byte = tree.nodes[i].byte;
    const PlaceId to = skip[byte] ? kNowhere : next(from, byte);
    if (to == kNowhere) continue;
    if (end - i < kShortBranch) {
      walk(tree, i, end, accept);
      continue;
    }
    const auto known = ahead_.try_emplace(uint64_t{to} << 8 | byte);
    std::vector<Ahead>& ahead = known.first->second;
    if (known.second) {
      walk(tree, i, end, [&](std::span<const int32_t> tokens, uint32_t left) {
        for (const int32_t token : tokens) ahead.push_back({token, left});
      });
      walked_ += ahead.size();
    }
    for (const Ahead& a : ahead) accept(std::span(&a.token, 1), a.left);
  }
}

const Runtime::Mask& Runtime::find_mask(PlaceId at) {
  if (places_[at].mask != 0) return masks_[places_[at].mask - 1];
  Mask mask;
  mask.run = run(at);
  const int64_t before = places_[at].left;
  const auto accept = [&](std::span<const int32_t> tokens, uint32_t left) {
    const int64_t change = int64_t{left} - before;
    mask.growth = static_cast<uint32_t>(std::max<int64_t>(mask.growth, change));
    for (const int32_t token : tokens) {
      set(mask.words, token);
      mask.walked.push_back({token, static_cast<int32_t>(std::clamp<int64_t>(change, INT32_MIN, INT32_MAX))});
    }
  };
  if (mask.run.table != nullptr) {
    mask.run.table->copy(mask.run.most, mask.words);
    mask.growth = static_cast<uint32_t>(std::max<int64_t>(0, int64_t{mask.run.left} - before));
    path_[0] = at;
    for (const CharTable::Mixed& mixed : mask.run.table->mixed())
      if (mixed.end < 0 || mask.run.after[static_cast<size_t>(mixed.end)])
        walk(mixed.tokens, 0, mixed.tokens.nodes.size(), accept);
    walk_all(at, mask.run.table->leads(), accept);
  } else {
    mask.words.assign(vocabulary_->words(), 0);
    walk_all(at, {}, accept);
  }
  if (places_[at].accepts)
    for (const int32_t end : vocabulary_->ends()) set(mask.words, end);
  mask.walked.shrink_to_fit();
  walked_ += mask.walked.size();
  masks_.push_back(std::move(mask));
  places_[at].mask = static_cast<uint32_t>(masks_.size());
  return masks_.back();
}

const std::vector<uint32_t>& Runtime::mask(PlaceId id) {
  if (rows_.size() * sizeof(rows_[0]) + masks_.size() * vocabulary_->words() * sizeof(uint32_t) +
          walked_ * sizeof(Mask::Walked) >
      kMaxCache)
    drop_caches();
  return find_mask(clip(id)).words;
}

uint32_t Runtime::growth(PlaceId id) {
  const uint32_t growth = find_mask(clip(id)).growth;
  return sum(growth, places_[id].uneven);
}

void Runtime::mask_towards_end(PlaceId id, int64_t most_left, std::vector<uint32_t>& words) {
  const Mask& mask = find_mask(clip(id));
  const int64_t most_change = most_left - int64_t{places_[id].left};
  const bool run_fits = mask.run.table != nullptr && int64_t{mask.run.left} - places_[clip(id)].left <= most_change;
  const bool run_unclear = mask.run.table != nullptr && !run_fits && (!mask.run.alone || mask.run.falls);
  if (places_[id].uneven > 0 || run_unclear) {
    words.assign(vocabulary_->words(), 0);
    walk_all(id, {}, [&](std::span<const int32_t> tokens, uint32_t left) {
      if (int64_t{left} > most_left) return;
      for (const int32_t token : tokens) set(words, token);
    });
  } else {
    if (run_fits) {
      mask.run.table->copy(mask.run.most, words);
    } else {
      words.assign(vocabulary_->words(), 0);
    }
    for (const Mask::Walked& w : mask.walked)
      if (w.change <= most_change) set(words, w.token);
  }
  if (places_[id].accepts)
    for (const int32_t end : vocabulary_->ends()) set(words, end);
}

void Runtime::drop_caches() {
  rows_.clear();
  masks_.clear();
  ahead_.clear();
  walked_ = 0;
  for (Place& p : places_) p.row = p.mask = 0;
}

Matcher::Matcher(std::shared_ptr<Runtime> runtime) : runtime_(std::move(runtime)) {}

std::span<const uint32_t> Matcher::mask(int64_t tokens_left) {
  if (ended_) {
    own_.assign(runtime_->vocabulary().words(), 0);
    for (const int32_t end : runtime_->vocabulary().ends()) set(own_, end);
    return own_;
  }
  const std::vector<uint32_t>& mask = runtime_->mask(place_);
  // An end takes a token of its own, and every byte at most one.
  const int64_t left = runtime_->left(place_);
  if (left + runtime_->growth(place_) + 2 <= tokens_left || left + 1 > tokens_left) return mask;
  runtime_->mask_towards_end(place_, tokens_left - 2, own_);
  return own_;
}

void Matcher::accept(int32_t token) {
  if (ended_) return;
  if (runtime_->vocabulary().is_end(token)) {
    ended_ = true;
    return;
  }
  const PlaceId next = token >= 0 && static_cast<size_t>(token) < runtime_->vocabulary().size()
                           ? runtime_->advance(place_, runtime_->vocabulary().text(token))
                           : Runtime::kNowhere;
  if (next == Runtime::kNowhere) {
    ended_ = true;
  } else {
    place_ = next;
  }
}

}  // namespace sluice::grammar
