// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include "base/clock.h"
#include "base/error.h"
#include "chat/speaker.h"
#include "client/sse_reader.h"

namespace sluice {
namespace {

// The words of an error in any of the dialects' shapes, else the body itself.
std::string error_words(std::string_view body) {
  try {
    const Value reply = Value::parse_json(body);
    for (const char* name : {"error", "message", "detail"}) {
      const Value* found = reply.find(name);
      if (found != nullptr && found->is_dict()) found = found->find("message");
      if (found != nullptr && found->is_string()) return found->as_string();
    }
  } catch (const RequestError&) {
  }
  return std::string(body.substr(0, 300));
}

[[noreturn]] void refuse(const ClientReply& reply) {
  const std::string words = error_words(reply.body);
  if (reply.head.status == 401 || reply.head.status == 403)
    throw Error(fmt::format("{}; give it with --key-file FILE, or in OPENAI_API_KEY", words));
  throw RequestError(RequestError::Kind::kGeneration,
                     fmt::format("the server answers {}: {}", reply.head.status, words));
}

int64_t count_of(const Value& usage, std::string_view name) {
  const Value* found = usage.find(name);
  return found != nullptr && found->is_int() ? found->as_int() : 0;
}

// One answer as its events arrive.
class Incoming {
 public:
  Incoming(const Speaker::OnText& on_text) : on_text_(on_text), began_(monotonic_seconds()) {}
  void event(std::string_view data) {
    if (data == "[DONE]") return;
    const Value event = Value::parse_json(data);
    if (event.find("error") != nullptr) {
      error_ = error_words(data);
      return;
    }
    if (const Value* usage = event.find("usage"); usage != nullptr && usage->is_dict()) {
      said_.prompt_tokens = count_of(*usage, "prompt_tokens");
      counted_ = count_of(*usage, "completion_tokens");
    }
    const Value* choices = event.find("choices");
    if (choices == nullptr || !choices->is_list() || choices->as_list().empty()) return;
    const Value& choice = choices->as_list()[0];
    if (const Value* reason = choice.find("finish_reason"); reason != nullptr && reason->is_string())
      said_.cut = reason->as_string() == "length";
    const Value* text = choice.find("text");
    if (const Value* delta = choice.find("delta")) text = delta->find("content");
    if (text == nullptr || !text->is_string() || text->as_string().empty()) return;
    if (pieces_++ == 0) said_.first_seconds = monotonic_seconds() - began_;
    said_.text += text->as_string();
    on_text_(text->as_string());
  }
  Said end(bool stopped) {
    said_.stopped = stopped;
    if (!error_.empty() && !stopped) throw RequestError(RequestError::Kind::kGeneration, error_);
    said_.tokens = counted_ > 0 ? counted_ : pieces_;
    said_.seconds = monotonic_seconds() - began_;
    return said_;
  }

 private:
  const Speaker::OnText& on_text_;
  const double began_;
  std::string error_;
  int64_t pieces_ = 0, counted_ = 0;
  Said said_;
};

class RemoteSpeaker : public Speaker {
 public:
  RemoteSpeaker(std::function<ServerAddress()> find, std::string model)
      : find_(std::move(find)), model_(std::move(model)) {
    reach();
    if (!model_.empty()) return;
    model_ = first_model(*client_);
  }
  const std::string& name() const override { return model_; }

  Said chat(const List& messages, const ChatParameters& parameters, const OnText& on_text,
            const std::atomic<bool>& stop) override {
    return ask("/v1/chat/completions", "messages", Value(messages), parameters, on_text, stop);
  }
  Said complete(const std::string& prompt, const ChatParameters& parameters, const OnText& on_text,
                const std::atomic<bool>& stop) override {
    return ask("/v1/completions", "prompt", Value(prompt), parameters, on_text, stop);
  }

 private:
  void reach() {
    ServerAddress address = find_();
    client_ = std::make_unique<HttpClient>(std::move(address.url), std::move(address.key));
  }

  Said ask(const char* path, const char* field, Value content, const ChatParameters& parameters, const OnText& on_text,
           const std::atomic<bool>& stop) {
    Dict body;
    body.set("model", model_);
    body.set(field, std::move(content));
    for (const auto& [name, value] : parameters.fields().entries()) body.set(name, value);
    body.set("stream", true);
    Dict options;
    options.set("include_usage", true);
    body.set("stream_options", Value(std::move(options)));
    const std::string text = Value(std::move(body)).dump_compact();
    for (bool again = false;; again = true) {
      Incoming incoming(on_text);
      SseReader events;
      bool any = false;
      try {
        client_->stop = &stop;
        const ClientReply reply = client_->post_json(path, text, [&](std::string_view piece) {
          any = true;
          events.feed(piece, [&](std::string_view data) { incoming.event(data); });
          return true;
        });
        if (!stop && reply.head.status != 200) refuse(reply);
        return incoming.end(stop);
      } catch (const Error&) {
        if (any || again || stop) throw;
        reach();  // where it is now
      }
    }
  }

  const std::function<ServerAddress()> find_;
  std::string model_;
  std::unique_ptr<HttpClient> client_;
};

}  // namespace

std::string first_model(HttpClient& client) {
  const ClientReply reply = client.get("/v1/models");
  if (reply.head.status != 200) refuse(reply);
  const Value models = Value::parse_json(reply.body);
  const Value* data = models.find("data");
  const Value* id =
      data != nullptr && data->is_list() && !data->as_list().empty() ? data->as_list()[0].find("id") : nullptr;
  if (id == nullptr || !id->is_string())
    throw Error("the server names no model at /v1/models; give one with --model NAME");
  return id->as_string();
}

std::unique_ptr<Speaker> remote_speaker(std::function<ServerAddress()> find, std::string model) {
  return std::make_unique<RemoteSpeaker>(std::move(find), std::move(model));
}

}  // namespace sluice
