// SPDX-License-Identifier: Apache-2.0
// Replies of the OpenAI routes: pure functions from results to JSON.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "api/dialects/openai_parse.h"
#include "api/stream.h"

namespace sluice::openai {

// What every object of one exchange says about itself.
struct Frame {
  std::string id;  // without its prefix
  int64_t created = 0;
  std::string model, fingerprint;
};

// Sums over all prompts of the exchange.
struct Totals {
  int64_t prompt = 0, cached = 0, generated = 0;
};
void append_usage(std::string& out, const Totals& totals);

// Whether the client is told of what an answer in channels did not mean for the user.
bool tells_reasoning(const Call& call, std::string_view reasoning);

std::string whole(const Call& call, const Frame& frame, std::vector<std::vector<Answer>>& answers,
                  const std::vector<std::vector<TokenInfo>>& prompts, const Totals& totals);

// Formats the chunks of one stream; the parts that repeat are put together once.
class Chunks {
 public:
  Chunks(const Call& call, const Frame& frame);
  void opening(std::string& out, int32_t index, std::string_view echo) const;  // role, or the echoed prompt
  // `offset`: characters of the choice's text before this chunk. `event` may lack text; its finish closes the choice.
  // `so_far`: the usage up to here, told with continuous_usage and by TGI's last completion chunk.
  void piece(std::string& out, int32_t index, const Event& event, int64_t offset, const Totals& so_far) const;
  void reasoning(std::string& out, int32_t index, std::string_view text) const;
  // A whole answer that turned out to be calls.
  void calls(std::string& out, int32_t index, const std::vector<ToolCall>& calls) const;
  void usage(std::string& out, const Totals& totals) const;

 private:
  const Call& call_;
  void close(std::string& out, const Totals* so_far, const std::vector<int32_t>* prompt = nullptr) const;
  std::string id_;
  std::string head_;  // up to and including "choices":[
};

void append_error(std::string& out, int status, std::string_view message, std::string_view type,
                  std::string_view param);
// The error inside a stream, in the manner of `call`; [DONE] follows.
void append_stream_error(std::string& out, const Call& call, std::string_view message);
std::string models(const Service& service);      // the list
std::string model_card(const Service& service);  // its one entry

}  // namespace sluice::openai
