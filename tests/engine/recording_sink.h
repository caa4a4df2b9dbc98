// SPDX-License-Identifier: Apache-2.0
// A sink that remembers everything and counts how often it was ended.
#pragma once

#include <chrono>
#include <condition_variable>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "engine/request.h"

namespace sluice {

class RecordingSink : public Sink {
 public:
  struct Piece {
    int32_t index = 0;
    std::string text;
    TokenInfo token;
    FinishReason finish = FinishReason::kNone;
  };
  struct Choice {
    std::string text, reasoning;
    std::vector<Piece> pieces;
    FinishReason finish = FinishReason::kNone;
    std::string stop_text;
    int32_t stop_id = -1;
  };

  void on_prompt(const std::vector<TokenInfo>& tokens) override {
    std::lock_guard lock(mutex_);
    ++prompts;
    prompt = tokens;
  }
  void on_delta(const Delta& d) override {
    std::lock_guard lock(mutex_);
    Choice& c = choices[d.choice];
    if (ends > 0 || c.finish != FinishReason::kNone || d.index != static_cast<int32_t>(c.pieces.size()) + 1) ++broken;
    c.text += d.text;
    c.reasoning += d.reasoning;
    c.pieces.push_back({d.index, std::string(d.text), d.token ? *d.token : TokenInfo{}, d.finish});
    c.finish = d.finish;
    c.stop_text = d.stop_text;
    c.stop_id = d.stop_id;
    changed_.notify_all();
  }
  void on_done(const Usage& u) override {
    std::lock_guard lock(mutex_);
    usage = u;
    ++ends;
    changed_.notify_all();
  }
  void on_error(std::string_view message) override {
    std::lock_guard lock(mutex_);
    error = message;
    ++ends;
    changed_.notify_all();
  }

  bool wait_end(double seconds = 30) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::duration<double>(seconds), [&] { return ends > 0; });
  }
  bool wait_tokens(size_t n, double seconds = 30) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::duration<double>(seconds),
                             [&] { return choices[0].pieces.size() >= n; });
  }
  size_t tokens() {
    std::lock_guard lock(mutex_);
    size_t n = 0;
    for (auto& [k, c] : choices) n += c.pieces.size();
    return n;
  }
  int end_count() {
    std::lock_guard lock(mutex_);
    return ends;
  }

  std::map<int32_t, Choice> choices;
  std::vector<TokenInfo> prompt;
  Usage usage;
  std::string error;
  int ends = 0, prompts = 0, broken = 0;

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
};

}  // namespace sluice
