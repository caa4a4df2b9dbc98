// SPDX-License-Identifier: Apache-2.0
// Who answers prompts: the engine of this process, the API's routes over it, or a server elsewhere.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "batch/prompt_file.h"
#include "engine/engine.h"
#include "text/chat_template.h"

namespace sluice {

// One line of the output, or why there is none.
struct Answered {
  int64_t index = 0;
  std::string line;
  std::string error;  // what the line carries in place of an answer
  std::string lost;   // the answerer cannot go on; the prompt stays without an answer
  int64_t generated_tokens = 0;
};

class Answerer {
 public:
  using Done = std::function<void(Answered)>;

  virtual ~Answerer() = default;  // drops what is under way; `done` is not called any more
  // Calls `done` once, from any thread, perhaps before it returns. The prompt has no error.
  virtual void submit(Prompt prompt, Done done) = 0;
};

// Prompts that carry text or messages. `chat` may be null: lines with messages then carry an error. `seed` and a
// prompt's index give the seed of prompts that have none.
std::unique_ptr<Answerer> engine_answerer(Engine& engine, const ChatTemplate* chat, uint64_t seed);

// The seed of a prompt without one: the same in every attempt.
uint64_t prompt_seed(uint64_t seed, int64_t index);

// A server that speaks OpenAI's routes.
struct UrlEndpoint {
  std::string url, key;
};
struct UrlAnswererOptions {
  std::function<UrlEndpoint()> where;  // asked at every new connection: a job may move; called by several threads
  std::string model;                   // asked for; empty: what /v1/models names first
  int64_t connections = 32;            // requests under way at once
  uint64_t seed = 0;                   // as for the engine
  double patience = 600;               // seconds for which a server that does not answer is tried again
  double silence = 600;                // longest wait for an answer's next bytes
};
// Throws Error when the server does not answer.
std::unique_ptr<Answerer> url_answerer(UrlAnswererOptions options);

}  // namespace sluice
