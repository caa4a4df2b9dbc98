// SPDX-License-Identifier: Apache-2.0
// What a load generator sends and what it reads, for each dialect. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace sluice {

enum class LoadApi { kChat, kCompletions, kTgi, kTriton, kOllama, kMaritalk, kEnergon };
std::vector<std::string> load_api_names();
LoadApi parse_load_api(const std::string& name);  // throws Error

enum class LoadFraming { kEvents, kLines, kWhole };  // server-sent events, JSON lines, one JSON reply
LoadFraming load_framing(LoadApi api);
std::string load_path(LoadApi api, const std::string& model);

struct LoadPrompt {
  std::string text;
  std::string messages;  // JSON; where not empty, kChat sends it instead
};
// Asks for exactly `max_tokens` where the dialect has a way to (ignore_eos, min_tokens).
std::string load_body(LoadApi api, const std::string& model, const LoadPrompt& prompt, int64_t max_tokens);
// A prompt of `words` words, different for every serial from its first word, so that no prefix cache answers for the
// model.
std::string synthetic_prompt(int64_t serial, int64_t words);

// One reply as it is read.
struct LoadReply {
  int64_t tokens = 0, prompt_tokens = 0;  // as the server counts; 0 where it does not say
  double generation_seconds = 0;          // the server's own figure; 0 where it does not say
  std::string text;                       // of whole replies alone
  std::string failure;                    // an error inside a good stream
};
// Reads one event, line or whole reply; true when it brought text.
bool read_load_event(LoadApi api, std::string_view data, LoadReply& reply);

}  // namespace sluice
