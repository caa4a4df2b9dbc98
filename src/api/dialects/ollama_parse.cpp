// SPDX-License-Identifier: Apache-2.0
#include "api/dialects/ollama_parse.h"

#include <fmt/format.h>

#include <algorithm>

#include "api/prompt.h"
#include "base/error.h"
#include "engine/grammar_fields.h"
#include "text/channels.h"

namespace sluice::ollama {
namespace {

using Kind = JsonView::Kind;

std::string without_latest(std::string name) {
  constexpr std::string_view kTag = ":latest";
  if (name.size() > kTag.size() && name.ends_with(kTag)) name.resize(name.size() - kTag.size());
  return name;
}

// Members that change the answer and are not offered. `neutral`: a value that asks for nothing.
struct Unsupported {
  std::string_view name, neutral;
};

void refuse(const JsonView& body, std::initializer_list<Unsupported> fields, const std::string& prefix) {
  for (const Unsupported& field : fields)
    if (asks(body[field.name], field.neutral))
      invalid_field(std::string(field.name),
                    fmt::format("{}{} is not supported by this server; leave it out", prefix, field.name));
}

// A number of seconds or a duration such as "5m". This server keeps its model as long as its job lasts.
bool unloads(const JsonView& keep) {
  if (keep.unset()) return false;
  if (auto seconds = keep.number()) return *seconds == 0;
  if (keep.kind() != Kind::kString) wrong_type("keep_alive", keep, "a number of seconds or a duration");
  const std::string text = *keep.string();
  const auto digit = text.find_first_of("0123456789");
  if (digit == std::string::npos || text.find_first_not_of("0123456789.+-hmsnuµ") != std::string::npos)
    invalid_field("keep_alive",
                  fmt::format("keep_alive: expected a duration such as \"5m\", found \"{}\"", text.substr(0, 32)));
  return text.find_first_of("123456789") == std::string::npos;
}

// The options that concern the answer; those of Ollama's runner (num_ctx, num_gpu, ...) are settings of the job here.
std::optional<int64_t> read_options(const JsonView& options, const Service& service, GenerateRequest& r) {
  if (!options.unset() && options.kind() != Kind::kObject) wrong_type("options", options, "an object");
  const Fields fields{options};
  refuse(options, {{"mirostat", ""}, {"tfs_z", "1"}, {"penalize_newline", "true"}}, "options.");
  SamplingParams& s = r.sampling;
  set_temperature(s, fields.number("temperature").value_or(0.8), "temperature");
  s.top_k = static_cast<int32_t>(std::clamp<int64_t>(fields.integer("top_k").value_or(40), 0, INT32_MAX));
  const double top_p = fields.number("top_p").value_or(0.9);
  s.top_p = top_p > 0 && top_p <= 1 ? static_cast<float>(top_p) : 1.0f;
  s.min_p = static_cast<float>(fields.in_range("min_p", 0, 0, 1));
  const double typical = fields.number("typical_p").value_or(1.0);
  s.typical_p = typical > 0 && typical <= 1 ? static_cast<float>(typical) : 1.0f;
  const double repeat = fields.number("repeat_penalty").value_or(1.0);
  if (!(repeat > 0)) wrong_type("repeat_penalty", options["repeat_penalty"], "a number above 0");
  s.repetition_penalty = fields.integer("repeat_last_n").value_or(64) == 0 ? 1.0f : static_cast<float>(repeat);
  s.presence_penalty = static_cast<float>(fields.in_range("presence_penalty", 0, -2, 2));
  s.frequency_penalty = static_cast<float>(fields.in_range("frequency_penalty", 0, -2, 2));
  const auto seed = fields.integer("seed");
  r.has_seed = seed && *seed >= 0;  // -1: a new one each time
  s.seed = r.has_seed ? static_cast<uint64_t>(*seed) : 0;
  for (std::string& stop : fields.strings("stop"))
    if (!stop.empty()) r.stop.push_back(std::move(stop));
  const int64_t most = std::max<int64_t>(16, service.limits.max_stop_sequences);
  if (static_cast<int64_t>(r.stop.size()) > most)
    invalid_field("stop", fmt::format("options.stop supports up to {} strings, got {}", most, r.stop.size()));
  const int64_t predict = fields.integer("num_predict").value_or(-1);
  if (predict < 0) return {};
  return std::max<int64_t>(1, predict);
}

// true, false, or how much: low, medium, high.
void read_think(const JsonView& think, const Service& service, Call& call) {
  call.request.channels = speaks_channels(*service.tokenizer);
  if (think.unset()) return;
  if (!call.request.channels) {
    if (asks(think, "")) invalid_field("think", fmt::format("{} does not support thinking", call.model));
    return;
  }
  if (think.kind() == Kind::kBool) {
    call.thinks = think.boolean().value_or(true);
    return;
  }
  call.effort = think.string().value_or("");
  if (call.effort != "low" && call.effort != "medium" && call.effort != "high")
    wrong_type("think", think, "true, false, low, medium or high");
}

Call read_common(const JsonView& body, const Service& service) {
  const Fields fields{body};
  Call call;
  call.model = read_model(body, service.model);
  call.stream = fields.boolean("stream", true);
  refuse(body, {{"images", ""}, {"template", ""}}, "");
  read_think(body["think"], service, call);
  if (JsonView format = body["format"]; !format.unset()) read_grammar_field("format", format.value(), call.request);
  call.unload = unloads(body["keep_alive"]);
  call.logprobs = fields.boolean("logprobs", false);
  const int64_t top = fields.integer("top_logprobs").value_or(0),
                most = std::min<int64_t>(20, service.limits.max_logprobs);
  if (top < 0 || top > most) invalid_field("top_logprobs", fmt::format("top_logprobs must be between 0 and {}", most));
  if (top > 0 && !call.logprobs) invalid_field("top_logprobs", "top_logprobs needs logprobs to be true");
  call.request.want_tokens = call.logprobs;
  call.request.sampling.n_logprobs = static_cast<int32_t>(top);
  return call;
}

}  // namespace

bool is_served(const ModelFacts& facts, const std::string& name) {
  const std::string wanted = without_latest(name);
  if (wanted == without_latest(facts.id)) return true;
  return std::any_of(facts.aliases.begin(), facts.aliases.end(),
                     [&](const std::string& alias) { return wanted == without_latest(alias); });
}

std::string read_model(const JsonView& body, const ModelFacts& facts) {
  const Fields fields{body};
  auto name = fields.string("model");
  if (!name || name->empty()) name = fields.string("name");
  if (!name || name->empty()) invalid_field("model", "model is required");
  if (!is_served(facts, *name))
    throw RequestError(RequestError::Kind::kUnknownModel,
                       fmt::format("model '{}' not found; this server has '{}'", *name, facts.id), "model");
  return *name;
}

Call read_generate(const JsonView& body, const Service& service) {
  const Fields fields{body};
  Call call = read_common(body, service);
  GenerateRequest& r = call.request;
  const auto wanted = read_options(body["options"], service, r);
  const std::string prompt = fields.string("prompt").value_or("");
  const std::string system = fields.string("system").value_or("");
  const bool raw = fields.boolean("raw", false);
  r.prompt = read_ids("context", body["context"], service.tokenizer->vocab_size());
  if (raw && (!system.empty() || !r.prompt.empty()))
    invalid_field("raw", "raw mode does not support template, system, or context");
  if (prompt.empty()) {
    call.load = true;
    return call;
  }
  std::vector<int32_t> ids;
  if (const std::string suffix = fields.string("suffix").value_or(""); !suffix.empty()) {
    r.channels = false;
    if (raw || !system.empty() || !r.prompt.empty())
      invalid_field("suffix", "suffix fills a gap in plain text; leave raw, system and context out");
    if (!fill_in(r, *service.tokenizer, prompt, suffix, true))
      invalid_field("suffix", fmt::format("{} does not support insert", call.model));
  } else if (raw || service.chat == nullptr) {
    r.channels = false;
    if (!system.empty()) invalid_field("system", "system: this model has no chat template to put it in; leave it out");
    ids = service.tokenizer->encode(prompt, r.prompt.empty());
  } else {
    List list;
    const auto add = [&](const char* role, const std::string& content) {
      Dict message;
      message.set("role", Value(role));
      message.set("content", Value(content));
      list.push_back(Value(std::move(message)));
    };
    if (!system.empty()) add("system", system);
    add("user", prompt);
    ChatInput input;
    input.messages = Value(std::move(list));
    if (!call.effort.empty()) input.variables.set("reasoning_effort", Value(call.effort));
    ids = service.tokenizer->encode(service.chat->render(input), false);
  }
  r.prompt.insert(r.prompt.end(), ids.begin(), ids.end());
  fit_prompt(r, wanted, service.limits);
  call.tells_context = !raw;
  r.want_tokens = call.tells_context || call.logprobs;
  return call;
}

Call read_chat(const JsonView& body, const Service& service) {
  Call call = read_common(body, service);
  refuse(body, {{"suffix", ""}}, "");
  call.chat = true;
  GenerateRequest& r = call.request;
  const auto wanted = read_options(body["options"], service, r);
  JsonView messages = body["messages"];
  if (messages.unset() || (messages.kind() == Kind::kArray && messages.size() == 0)) {
    call.load = true;
    return call;
  }
  for (size_t i = 0; i < messages.size(); ++i)
    if (asks(messages.at(i)["images"], "")) invalid_field("images", "images are not supported by this server");
  const ChatTemplate& chat = chat_of(service, "use /api/generate with raw and the whole prompt");
  ChatInput input;
  input.messages = read_messages(messages, chat);
  if (!call.effort.empty()) input.variables.set("reasoning_effort", Value(call.effort));
  call.tools = read_tools(body["tools"], {});
  if (call.tools.choice != ToolUse::Choice::kNone && call.logprobs)
    invalid_field("logprobs", "logprobs together with tools are not supported; leave one of them out");
  show_tools(input, call.tools, chat, "");
  r.prompt = service.tokenizer->encode(chat.render(input), false);
  fit_prompt(r, wanted, service.limits);
  return call;
}

}  // namespace sluice::ollama
