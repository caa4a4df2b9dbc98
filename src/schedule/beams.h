// SPDX-License-Identifier: Apache-2.0
// Beam search as transformers 4.57 does it: which beams go on with which tokens, which are finished, when to stop.
// Pure: it sees token ids and scores alone; the Scheduler moves blocks accordingly.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "schedule/sequence_end.h"

namespace sluice {

// When a search stops that has found as many answers as it has beams. kNo: when the best beam, at its present length,
// is no better than the worst of them. kYes: at once. kNever: as kNo, but at the greatest length where the penalty
// favours length.
enum class EarlyStopping : uint8_t { kNo, kYes, kNever };

struct BeamParams {
  int32_t width = 1;            // beams; 1: no search
  float length_penalty = 1.0f;  // a score is the sum of log probabilities / length^penalty
  EarlyStopping early_stopping = EarlyStopping::kNo;
};

struct BeamAnswer {
  uint64_t tag = 0;  // whose answer it is
  float score = 0;
  std::vector<int32_t> tokens;   // generated ones, an end-of-sequence token included
  std::vector<float> log_probs;  // of each, as the search saw them
  SequenceEnd end = SequenceEnd::kNone;
};

class BeamSearch {
 public:
  struct Ends {
    std::vector<int32_t> eos_ids, stop_ids;
    int32_t max_new_tokens = 0;
  };
  struct Next {
    int32_t parent, token;
  };

  BeamSearch(const BeamParams& params, Ends ends);

  static int32_t candidates(int32_t width, size_t n_ends);  // that each beam must offer
  int32_t candidates() const { return candidates(params_.width, ends_.eos_ids.size() + ends_.stop_ids.size()); }

  // The best continuations of a beam, best first; adds to what was offered since the last advance() or restart(beam).
  void offer(int32_t beam, std::span<const int32_t> ids, std::span<const float> log_probs);
  void restart(int32_t beam) { offers_[static_cast<size_t>(beam)].clear(); }
  // With the offers of all beams, or of beam 0 alone where none has a token. False: the search is over. Else beam i
  // goes on as next()[i] says.
  bool advance();
  std::span<const Next> next() const { return next_; }
  std::vector<BeamAnswer> answers(size_t n) const;  // the n best, best first

 private:
  struct Offer {
    int32_t token;
    float log_prob;
  };
  struct Candidate {
    float score;  // of the beam with this token
    int32_t beam, token;
    float log_prob;
    SequenceEnd end;
  };
  struct Node {  // a token of some beam
    int32_t before, token;
    float log_prob;
  };
  struct Finished {
    float score;
    int32_t node;
    SequenceEnd end;
  };

  void choose();
  void go_on();
  void keep_finished();
  SequenceEnd end_of(int32_t token) const;
  int32_t add_node(const Candidate& c);
  float penalty(int32_t length) const;
  bool all_finished() const { return finished_.size() == static_cast<size_t>(params_.width); }

  BeamParams params_;
  Ends ends_;
  int32_t length_ = 0;         // tokens of every beam
  bool improvable_ = true;     // no beam has been hopeless so far
  std::vector<float> scores_;  // [width]
  std::vector<int32_t> tips_;  // [width]: newest nodes
  std::vector<std::vector<Offer>> offers_;
  std::vector<Candidate> best_;  // of this advance()
  std::vector<Next> next_;
  std::vector<Node> nodes_;
  std::vector<Finished> finished_;  // best first, at most width
};

}  // namespace sluice
