// SPDX-License-Identifier: Apache-2.0
// An automaton at work: the places it can be in, found one by one and kept, and which tokens may come at each. Shared
// by the answers that follow one grammar on one thread.
#pragma once

#include <array>
#include <bitset>
#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "grammar/automaton.h"

namespace sluice::grammar {

using PlaceId = uint32_t;

class Runtime {
 public:
  Runtime(std::shared_ptr<const Automaton> automaton, std::shared_ptr<const Vocabulary> vocabulary);

  static constexpr PlaceId kNowhere = 0, kStart = 1;
  PlaceId next(PlaceId from, uint8_t byte);  // kNowhere: the byte may not come
  PlaceId advance(PlaceId from, std::string_view text);
  bool accepts(PlaceId id) const { return places_[id].accepts; }  // the answer may end here
  uint32_t left(PlaceId id) const { return places_[id].left; }    // fewest bytes to an end

  // Tokens that may come, [vocabulary words]. Valid until the next call.
  const std::vector<uint32_t>& mask(PlaceId id);
  bool has_mask(PlaceId id) const { return places_[places_[id].clipped].mask != 0; }  // without finding it now
  // How much farther from an end one of them can lead, bytes.
  uint32_t growth(PlaceId id);
  // Only tokens that leave at most `most_left` bytes to an end; not below left() - 1, which some token always reaches.
  void mask_towards_end(PlaceId id, int64_t most_left, std::vector<uint32_t>& words);

  const Vocabulary& vocabulary() const { return *vocabulary_; }
  bool large() const { return places_.size() > 200000 || frames_.size() > 1000000; }  // better begun anew

 private:
  // A rule or loop that is under way: `state` is its kCall or kLoop, `count` the passes of a loop that are complete.
  struct Frame {
    uint32_t parent;
    StateId state;
    uint32_t count;
    uint32_t left;     // fewest bytes to an end once it returns
    uint32_t clipped;  // the frame that stands for it, see clip()
  };
  struct Config {
    StateId state;
    uint32_t frame;
    auto operator<=>(const Config&) const = default;
  };
  struct Place {
    uint32_t first = 0, count = 0;  // configs_, ascending
    bool accepts = false;
    uint32_t left = kUnreachable;
    PlaceId clipped = kNowhere;
    uint32_t uneven = 0;  // how differently clip() brings its configs nearer to an end, bytes
    uint32_t row = 0;     // 1 + index into rows_; 0: none
    uint32_t mask = 0;    // 1 + index into masks_
  };
  // Tokens made of the characters of one table, as many as fit into a repetition that is under way.
  struct Run {
    const CharTable* table = nullptr;
    uint32_t most = 0;       // characters
    uint32_t left = 0;       // at most so many bytes to an end after such a token
    bool falls = false;      // the more characters, the fewer
    bool alone = false;      // nothing else takes such characters
    std::bitset<256> after;  // bytes that may follow one
  };
  struct Mask {
    std::vector<uint32_t> words;
    Run run;
    struct Walked {
      int32_t token;
      int32_t change;  // of the bytes to an end
    };
    std::vector<Walked> walked;  // the tokens that are not of the run
    uint32_t growth = 0;
  };
  struct KeyHash {
    size_t operator()(const std::array<uint32_t, 3>& key) const;
  };

  uint32_t frame(uint32_t parent, StateId state, uint32_t count);
  uint32_t clip(uint32_t parent, StateId state, uint32_t count);
  void reach(StateId state, uint32_t frame);
  PlaceId settle();
  PlaceId clip(PlaceId id);
  PlaceId find_next(PlaceId from, uint8_t byte, Automaton::Edge& alike);
  uint32_t make_row(PlaceId id);
  Run run(PlaceId id);
  std::bitset<256> taken(std::span<const Config> configs, std::span<const Config> except = {}) const;
  template <class Accept>
  void walk(const TokenTree& tree, size_t begin, size_t end, Accept accept);
  template <class Accept>
  void walk_all(PlaceId from, const std::bitset<256>& skip, Accept accept);
  const Mask& find_mask(PlaceId at);
  void drop_caches();

  std::shared_ptr<const Automaton> automaton_;
  std::shared_ptr<const Vocabulary> vocabulary_;
  uint32_t longest_;  // bytes of a token

  std::vector<Frame> frames_;
  std::unordered_map<std::array<uint32_t, 3>, uint32_t, KeyHash> frame_ids_;
  std::vector<Config> configs_;
  std::vector<Place> places_;
  std::unordered_multimap<uint64_t, PlaceId> place_ids_;
  std::deque<std::array<int32_t, 256>> rows_;  // places, -1: not known
  std::vector<Mask> masks_;
  // Tokens of one first byte behind the place that it leads to: many places lead there. By 256 * place + byte.
  struct Ahead {
    int32_t token;
    uint32_t left;
  };
  std::unordered_map<uint64_t, std::vector<Ahead>> ahead_;
  size_t walked_ = 0;  // tokens of all masks and of ahead_

  // Scratch.
  std::vector<Config> work_, reached_;
  std::vector<uint64_t> seen_;
  std::vector<uint32_t> seen_round_;
  uint32_t round_ = 0, n_seen_ = 0;
  std::vector<PlaceId> path_;
};

// One answer. tokens_left counts the token about to come.
class Matcher {
 public:
  explicit Matcher(std::shared_ptr<Runtime> runtime);
  // Tokens that may come next; never empty. From where only a straight way to an end fits into `tokens_left`, others
  // are left out. Valid until the next call of any matcher of the runtime.
  std::span<const uint32_t> mask(int64_t tokens_left);
  void accept(int32_t token);  // one that the mask allows, else the answer counts as ended
  bool known() const { return ended_ || runtime_->has_mask(place_); }  // mask() takes no search
  bool ended() const { return ended_; }
  bool complete() const { return ended_ || runtime_->accepts(place_); }

 private:
  std::shared_ptr<Runtime> runtime_;
  PlaceId place_ = Runtime::kStart;
  bool ended_ = false;
  std::vector<uint32_t> own_;
};

}  // namespace sluice::grammar
