// SPDX-License-Identifier: Apache-2.0
#include "schedule/beams.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"

namespace sluice {
namespace {

constexpr float kHopeless = -1.0e9f;

bool holds(const std::vector<int32_t>& ids, int32_t id) { return std::ranges::find(ids, id) != ids.end(); }

}  // namespace

BeamSearch::BeamSearch(const BeamParams& params, Ends ends)
    : params_(params),
      ends_(std::move(ends)),
      scores_(static_cast<size_t>(params.width), kHopeless),  // beams are alike at first: only one may go on
      tips_(static_cast<size_t>(params.width), -1),
      offers_(static_cast<size_t>(params.width)) {
  check(params.width > 0 && ends_.max_new_tokens > 0, "a beam search needs beams and tokens");
  scores_[0] = 0;
  nodes_.reserve(static_cast<size_t>(params.width) * 64);
}

int32_t BeamSearch::candidates(int32_t width, size_t n_ends) {
  return static_cast<int32_t>(std::max<size_t>(2, 1 + n_ends)) * width;
}

void BeamSearch::offer(int32_t beam, std::span<const int32_t> ids, std::span<const float> log_probs) {
  for (size_t i = 0; i < ids.size(); ++i) offers_[static_cast<size_t>(beam)].push_back({ids[i], log_probs[i]});
}

SequenceEnd BeamSearch::end_of(int32_t token) const {
  if (holds(ends_.eos_ids, token)) return SequenceEnd::kEos;
  if (holds(ends_.stop_ids, token)) return SequenceEnd::kStopId;
  return length_ + 1 >= ends_.max_new_tokens ? SequenceEnd::kLength : SequenceEnd::kNone;
}

// The best continuations of all beams; of equal ones those of lower beams, then of lower ids.
void BeamSearch::choose() {
  best_.clear();
  for (int32_t beam = 0; beam < params_.width; ++beam) {
    const std::vector<Offer>& offers = offers_[length_ == 0 ? 0 : static_cast<size_t>(beam)];
    for (const Offer& o : offers)
      best_.push_back({o.log_prob + scores_[static_cast<size_t>(beam)], length_ == 0 ? 0 : beam, o.token, o.log_prob,
                       end_of(o.token)});
  }
  std::ranges::stable_sort(best_, std::ranges::greater{}, &Candidate::score);
  best_.resize(std::min(best_.size(), static_cast<size_t>(candidates())));
}

int32_t BeamSearch::add_node(const Candidate& c) {
  nodes_.push_back({tips_[static_cast<size_t>(c.beam)], c.token, c.log_prob});
  return static_cast<int32_t>(nodes_.size()) - 1;
}

float BeamSearch::penalty(int32_t length) const {
  return static_cast<float>(std::pow(static_cast<double>(length), static_cast<double>(params_.length_penalty)));
}

// Of what ends now, only what is among the `width` best counts, and nothing where no answer can be added any more.
void BeamSearch::keep_finished() {
  if ((all_finished() && params_.early_stopping == EarlyStopping::kYes) || !improvable_) return;
  const float divisor = penalty(length_ + 1);
  for (size_t i = 0; i < best_.size() && i < static_cast<size_t>(params_.width); ++i)
    if (best_[i].end != SequenceEnd::kNone)
      finished_.push_back({best_[i].score / divisor, add_node(best_[i]), best_[i].end});
  std::ranges::stable_sort(finished_, std::ranges::greater{}, &Finished::score);
  finished_.resize(std::min(finished_.size(), static_cast<size_t>(params_.width)));
}

void BeamSearch::go_on() {
  next_.clear();
  std::vector<int32_t> tips;
  std::vector<float> scores;
  const auto take = [&](const Candidate& c, float score) {
    next_.push_back({c.beam, c.token});
    tips.push_back(add_node(c));
    scores.push_back(score);
  };
  const Candidate* last = nullptr;
  for (const Candidate& c : best_) {
    if (c.end != SequenceEnd::kNone) continue;
    if (next_.size() < static_cast<size_t>(params_.width)) take(c, c.score);
    last = &c;
  }
  // Where hardly any token may come there are fewer: the rest repeat the last one without a chance.
  while (last != nullptr && next_.size() < static_cast<size_t>(params_.width)) take(*last, kHopeless);
  tips_.swap(tips);
  scores_.swap(scores);
}

bool BeamSearch::advance() {
  choose();
  check(!best_.empty(), "a beam search has no continuation");
  keep_finished();
  go_on();
  ++length_;
  for (auto& offers : offers_) offers.clear();
  if (next_.empty()) return false;
  if (all_finished()) {
    if (params_.early_stopping == EarlyStopping::kYes) return false;
    const bool far = params_.early_stopping == EarlyStopping::kNever && params_.length_penalty > 0;
    const float possible = scores_[0] / penalty(far ? ends_.max_new_tokens : length_);
    improvable_ = improvable_ && possible > finished_.back().score;
  }
  return improvable_;
}

std::vector<BeamAnswer> BeamSearch::answers(size_t n) const {
  std::vector<BeamAnswer> out;
  for (size_t i = 0; i < std::min(n, finished_.size()); ++i) {
    const Finished& f = finished_[i];
    BeamAnswer answer;
    answer.score = f.score;
    answer.end = f.end;
    for (int32_t node = f.node; node >= 0; node = nodes_[static_cast<size_t>(node)].before) {
      answer.tokens.push_back(nodes_[static_cast<size_t>(node)].token);
      answer.log_probs.push_back(nodes_[static_cast<size_t>(node)].log_prob);
    }
    std::ranges::reverse(answer.tokens);
    std::ranges::reverse(answer.log_probs);
    out.push_back(std::move(answer));
  }
  return out;
}

}  // namespace sluice
