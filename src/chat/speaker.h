// SPDX-License-Identifier: Apache-2.0
// Who answers: a model in this process, or a server. The terminal does not know which.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "chat/parameters.h"
#include "client/http_client.h"
#include "engine/engine.h"
#include "text/chat_template.h"
#include "text/value.h"

namespace sluice {

struct Said {
  std::string text;
  bool stopped = false;  // by `stop`
  bool cut = false;      // by the token limit
  int64_t prompt_tokens = 0, tokens = 0;
  double first_seconds = 0, seconds = 0;  // until the first text, until the end
};

class Speaker {
 public:
  using OnText = std::function<void(std::string_view)>;  // called on the caller's thread
  virtual ~Speaker() = default;
  virtual const std::string& name() const = 0;
  // Stream an answer; both end soon after `stop` becomes true, with what was said so far. Throw RequestError where the
  // request is at fault and Error where the server cannot be reached.
  virtual Said chat(const List& messages, const ChatParameters& parameters, const OnText& on_text,
                    const std::atomic<bool>& stop) = 0;
  virtual Said complete(const std::string& prompt, const ChatParameters& parameters, const OnText& on_text,
                        const std::atomic<bool>& stop) = 0;
};

// `chat` may be null: then chat() throws. What is passed outlives the speaker.
std::unique_ptr<Speaker> local_speaker(std::string name, Engine& engine, const ChatTemplate* chat,
                                       const GenerateRequest& defaults);

struct ServerAddress {
  Url url;
  std::string key;  // empty for none
};
// The first model that a server names at /v1/models. Throws Error, or RequestError with the server's words.
std::string first_model(HttpClient& client);
// A server that speaks OpenAI's routes. `find` is asked first and again when the server cannot be reached any more, so
// that a job may move. `model`: empty for the first that the server names.
std::unique_ptr<Speaker> remote_speaker(std::function<ServerAddress()> find, std::string model);

}  // namespace sluice
