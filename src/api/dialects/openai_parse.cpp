// SPDX-License-Identifier: Apache-2.0
#include "api/dialects/openai_parse.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "api/json.h"
#include "base/error.h"

namespace sluice::openai {
namespace {

using Kind = JsonView::Kind;

[[noreturn]] void invalid(std::string param, const std::string& text) {
  throw RequestError(RequestError::Kind::kValidation, text, std::move(param));
}

[[noreturn]] void wrong_type(const std::string& name, const JsonView& found, std::string_view expected) {
  invalid(name, fmt::format("{}: expected {}, found {}", name, expected, found.describe()));
}

// Members of the body; null counts as absent.
struct Fields {
  JsonView body;

  std::optional<double> number(const std::string& name) const {
    JsonView node = body[name];
    if (node.unset()) return {};
    auto value = node.number();
    if (!value) wrong_type(name, node, "a number");
    return value;
  }
  std::optional<int64_t> integer(const std::string& name) const {
    JsonView node = body[name];
    if (node.unset()) return {};
    auto value = node.integer();
    if (!value) wrong_type(name, node, "an integer");
    return value;
  }
  bool boolean(const std::string& name, bool otherwise) const {
    JsonView node = body[name];
    if (node.unset()) return otherwise;
    auto value = node.boolean();
    if (!value) wrong_type(name, node, "a boolean");
    return *value;
  }
  double in_range(const std::string& name, double otherwise, double low, double high) const {
    double value = number(name).value_or(otherwise);
    if (!(value >= low && value <= high))
      invalid(name, fmt::format("{} must be in [{:g}, {:g}], got {}.", name, low, high, value));
    return value;
  }
};

// Present and neither null, false, zero, empty, nor equal to the neutral value: somebody counts on it.
bool asks(const JsonView& node, std::string_view neutral) {
  switch (node.kind()) {
    case Kind::kMissing:
    case Kind::kNull:
      return false;
    case Kind::kBool:
      return node.dump() != (neutral.empty() ? "false" : neutral);
    case Kind::kInteger:
    case Kind::kFloat:
      return *node.number() != 0 && node.dump() != neutral;
    case Kind::kString:
      return !node.string_view().empty() && node.string_view() != neutral;
    default:
      return node.size() != 0;
  }
}

// Fields that change the answer and are not offered. `neutral`: a value that asks for nothing.
struct Unsupported {
  std::string_view name, neutral;
};
constexpr Unsupported kUnsupported[] = {{"tools", ""},
                                        {"functions", ""},
                                        {"function_call", "none"},
                                        {"guided_json", ""},
                                        {"guided_regex", ""},
                                        {"guided_choice", ""},
                                        {"guided_grammar", ""},
                                        {"structured_outputs", ""},
                                        {"guided_decoding_backend", ""},
                                        {"use_beam_search", ""},
                                        {"length_penalty", "1"},
                                        {"early_stopping", ""},
                                        {"prompt_logprobs", ""},
                                        {"allowed_token_ids", ""},
                                        {"bad_words", ""},
                                        {"chat_template", ""},
                                        {"documents", ""},
                                        {"priority", ""},
                                        {"return_tokens_as_token_ids", ""},
                                        {"spaces_between_special_tokens", "true"},
                                        {"kv_transfer_params", ""},
                                        {"suffix", ""},
                                        {"audio", ""},
                                        {"prediction", ""},
                                        {"web_search_options", ""},
                                        {"mm_processor_kwargs", ""},
                                        {"logits_processors", ""},
                                        {"thinking_token_budget", ""},
                                        {"tool_prompt", ""},
                                        {"adapter_id", ""}};

void refuse_unsupported(const JsonView& body) {
  for (const Unsupported& field : kUnsupported) {
    JsonView node = body[field.name];
    if (!asks(node, field.neutral)) continue;
    if (node.kind() == Kind::kFloat && field.neutral == "1" && *node.number() == 1.0) continue;
    invalid(std::string(field.name), fmt::format("{} is not supported by this server; leave it out", field.name));
  }
  JsonView choice = body["tool_choice"];
  if (asks(choice, "none") && choice.string_view() != "auto")
    invalid("tool_choice", "tool_choice is not supported by this server; leave it out");
  JsonView format = body["response_format"];
  if (!format.unset() && format["type"].string_view() != "text")
    invalid("response_format",
            fmt::format("response_format {} is not supported by this server; only {{\"type\": \"text\"}} is",
                        format.dump().substr(0, 80)));
  JsonView modalities = body["modalities"];
  for (size_t i = 0; i < modalities.size(); ++i)
    if (modalities.at(i).string_view() != "text") invalid("modalities", "modalities: only \"text\" is supported");
}

void check_model(const JsonView& body, const ModelFacts& facts) {
  JsonView model = body["model"];
  if (model.unset()) return;
  if (model.kind() != Kind::kString) wrong_type("model", model, "a string");
  std::string_view name = model.string_view();
  // TGI's clients send these for "whatever is served".
  if (name.empty() || name == "tgi" || name == "dummy" || name == facts.id) return;
  if (std::find(facts.aliases.begin(), facts.aliases.end(), name) != facts.aliases.end()) return;
  throw RequestError(RequestError::Kind::kUnknownModel,
                     fmt::format("The model `{}` does not exist. This server has `{}`.", name, facts.id), "model");
}

std::vector<std::string> read_stop(const JsonView& stop) {
  std::vector<std::string> out;
  if (stop.unset()) return out;
  if (stop.kind() == Kind::kString) {
    out.push_back(*stop.string());
  } else if (stop.kind() == Kind::kArray) {
    for (size_t i = 0; i < stop.size(); ++i) {
      if (stop.at(i).kind() != Kind::kString) wrong_type("stop", stop.at(i), "a string or a list of strings");
      out.push_back(*stop.at(i).string());
    }
  } else {
    wrong_type("stop", stop, "a string or a list of strings");
  }
  for (const std::string& text : out)
    if (text.empty()) invalid("stop", "stop cannot contain an empty string.");
  return out;
}

std::vector<int32_t> read_ids(const std::string& name, const JsonView& list, int64_t vocab) {
  std::vector<int32_t> ids;
  if (list.unset()) return ids;
  if (list.kind() != Kind::kArray) wrong_type(name, list, "a list of token ids");
  ids.reserve(list.size());
  for (size_t i = 0; i < list.size(); ++i) {
    auto id = list.at(i).integer();
    if (!id) wrong_type(name, list.at(i), "a token id");
    if (*id < 0 || *id >= vocab)
      invalid(name, fmt::format("{}: token id {} is outside the vocabulary of {} tokens", name, *id, vocab));
    ids.push_back(static_cast<int32_t>(*id));
  }
  return ids;
}

std::vector<LogitBias> read_bias(const JsonView& map, int64_t vocab) {
  std::vector<LogitBias> out;
  if (map.unset()) return out;
  if (map.kind() != Kind::kObject) wrong_type("logit_bias", map, "an object of token id to bias");
  for (const std::string& key : map.keys()) {
    int64_t id = -1;
    auto parsed = std::from_chars(key.data(), key.data() + key.size(), id);
    if (parsed.ec != std::errc() || parsed.ptr != key.data() + key.size() || id < 0 || id >= vocab)
      invalid("logit_bias", fmt::format("logit_bias: \"{}\" is no token id below {}", key.substr(0, 32), vocab));
    auto bias = map[key].number();
    if (!bias) wrong_type("logit_bias", map[key], "a number from -100 to 100");
    out.push_back({static_cast<int32_t>(id), static_cast<float>(std::clamp(*bias, -100.0, 100.0))});
  }
  return out;
}

// What chat and completions share; the prompt and max_tokens come later.
GenerateRequest read_common(const JsonView& body, const Service& service, Call& call) {
  const Fields fields{body};
  const ModelFacts& facts = service.model;
  check_model(body, facts);
  refuse_unsupported(body);
  GenerateRequest r;
  SamplingParams& s = r.sampling;
  const double temperature = fields.number("temperature").value_or(facts.temperature);
  if (!(temperature >= 0))
    invalid("temperature", fmt::format("temperature must be non-negative, got {}.", temperature));
  s.greedy = temperature < 1e-5;
  s.temperature = s.greedy ? 1.0f : static_cast<float>(temperature);
  const double top_p = fields.number("top_p").value_or(facts.top_p);
  if (!(top_p > 0 && top_p <= 1)) invalid("top_p", fmt::format("top_p must be in (0, 1], got {}.", top_p));
  s.top_p = static_cast<float>(top_p);
  const int64_t top_k = fields.integer("top_k").value_or(facts.top_k);
  if (top_k < -1) invalid("top_k", fmt::format("top_k must be -1 (disable), or at least 1, got {}.", top_k));
  s.top_k = static_cast<int32_t>(std::clamp<int64_t>(top_k, 0, INT32_MAX));
  s.min_p = static_cast<float>(fields.in_range("min_p", 0, 0, 1));
  s.presence_penalty = static_cast<float>(fields.in_range("presence_penalty", 0, -2, 2));
  s.frequency_penalty = static_cast<float>(fields.in_range("frequency_penalty", 0, -2, 2));
  const double repetition = fields.number("repetition_penalty").value_or(facts.repetition_penalty);
  if (!(repetition > 0))
    invalid("repetition_penalty", fmt::format("repetition_penalty must be greater than zero, got {}.", repetition));
  s.repetition_penalty = static_cast<float>(repetition);
  const int64_t vocab = service.tokenizer->vocab_size();
  s.logit_bias = read_bias(body["logit_bias"], vocab);
  if (JsonView seed = body["seed"]; !seed.unset()) {
    auto large = seed.unsigned_integer();
    auto number = seed.integer();
    if (!large && !number) wrong_type("seed", seed, "an integer");
    s.seed = large ? *large : static_cast<uint64_t>(*number);
    r.has_seed = true;
  }
  r.stop = read_stop(body["stop"]);
  if (static_cast<int64_t>(r.stop.size()) > std::max<int64_t>(4, service.limits.max_stop_sequences))
    invalid("stop", fmt::format("stop supports up to {} strings, got {}.",
                                std::max<int64_t>(4, service.limits.max_stop_sequences), r.stop.size()));
  r.stop_ids = read_ids("stop_token_ids", body["stop_token_ids"], vocab);
  r.ignore_eos = fields.boolean("ignore_eos", false);
  r.skip_special = fields.boolean("skip_special_tokens", true);
  r.keep_stop_text = fields.boolean("include_stop_str_in_output", false);
  const int64_t min_tokens = fields.integer("min_tokens").value_or(0);
  if (min_tokens < 0)
    invalid("min_tokens", fmt::format("min_tokens must be greater than or equal to 0, got {}.", min_tokens));
  r.min_new_tokens = static_cast<int32_t>(std::min<int64_t>(min_tokens, INT32_MAX));
  const int64_t n = fields.integer("n").value_or(1);
  if (n < 1) invalid("n", fmt::format("n must be at least 1, got {}.", n));
  if (n > service.limits.max_choices)
    invalid("n", fmt::format("n must be at most {}, got {}.", service.limits.max_choices, n));
  r.n = call.n = static_cast<int32_t>(n);
  call.stream = fields.boolean("stream", false);
  if (JsonView options = body["stream_options"]; !options.unset()) {
    if (!call.stream) invalid("stream_options", "stream_options is only allowed together with stream");
    call.include_usage = Fields{options}.boolean("include_usage", false);
    if (asks(options["continuous_usage_stats"], ""))
      invalid("stream_options", "stream_options.continuous_usage_stats is not supported by this server; leave it out");
  }
  const int64_t best_of = fields.integer("best_of").value_or(n);
  if (best_of < n)
    invalid("best_of", fmt::format("best_of must be greater than or equal to n, got n={} and best_of={}.", n, best_of));
  if (best_of > n && call.stream) invalid("best_of", "best_of greater than n is not supported when streaming");
  if (best_of > std::max(n, service.limits.max_best_of))
    invalid("best_of", fmt::format("best_of must be at most {} (MAX_BEST_OF), got {}.",
                                   std::max(n, service.limits.max_best_of), best_of));
  r.best_of = static_cast<int32_t>(best_of);
  return r;
}

void set_logprobs(GenerateRequest& r, Call& call, int64_t top, const std::string& name, const Limits& limits) {
  const int64_t most = std::min<int64_t>(limits.max_logprobs, kMaxTopLogprobs);
  if (top < 0 || top > most) invalid(name, fmt::format("{} must be from 0 to {}, got {}.", name, most, top));
  call.logprobs = true;
  r.want_tokens = true;
  r.sampling.n_logprobs = static_cast<int32_t>(top);
}

// Keeps the last tokens where asked to, and checks the lengths. `wanted`: nothing means the rest of the context.
void fit(GenerateRequest& r, std::optional<int64_t> wanted, const std::string& param, const JsonView& body,
         const Limits& limits, bool chat) {
  if (auto keep = Fields{body}.integer("truncate_prompt_tokens")) {
    if (*keep < 1)
      invalid("truncate_prompt_tokens", fmt::format("truncate_prompt_tokens must be at least 1, got {}.", *keep));
    if (*keep < static_cast<int64_t>(r.prompt.size())) r.prompt.erase(r.prompt.begin(), r.prompt.end() - *keep);
  }
  const char* part = chat ? "messages" : "prompt";
  const auto input = static_cast<int64_t>(r.prompt.size());
  if (input == 0) invalid(part, fmt::format("{}: nothing to start from, the prompt has no tokens", part));
  if (wanted && *wanted < 1) invalid(param, fmt::format("max_tokens must be at least 1, got {}.", *wanted));
  const int64_t asked = wanted.value_or(1);
  if (asked > limits.max_total_tokens - input)
    invalid(part,
            fmt::format("This model's maximum context length is {} tokens. However, you requested {} tokens ({} in the "
                        "{}, {} in the completion). Please reduce the length of the {} or completion.",
                        limits.max_total_tokens, static_cast<uint64_t>(input) + static_cast<uint64_t>(asked), input,
                        part, asked, part));
  if (input > limits.max_input_tokens)
    invalid(part,
            fmt::format("This server takes at most {} prompt tokens (MAX_INPUT_TOKENS). However, the {} {} {} tokens.",
                        limits.max_input_tokens, part, chat ? "have" : "has", input));
  r.max_new_tokens = static_cast<int32_t>(wanted.value_or(limits.max_total_tokens - input));
  if (r.min_new_tokens > r.max_new_tokens)
    invalid("min_tokens", fmt::format("min_tokens must be less than or equal to max_tokens={}, got {}.",
                                      r.max_new_tokens, r.min_new_tokens));
}

Value read_content(const JsonView& content, bool takes_parts) {
  if (content.unset()) return Value("");
  if (content.kind() == Kind::kString) return content.value();
  if (content.kind() != Kind::kArray) wrong_type("messages.content", content, "a string or a list of parts");
  std::string joined;
  for (size_t i = 0; i < content.size(); ++i) {
    JsonView part = content.at(i);
    std::string_view type = part.kind() == Kind::kString ? "text" : part["type"].string_view();
    if (type != "text")
      invalid("messages",
              fmt::format("messages: a content part of type \"{}\" is not supported; this server takes text", type));
    JsonView text = part.kind() == Kind::kString ? part : part["text"];
    if (text.kind() != Kind::kString) wrong_type("messages.content.text", text, "a string");
    if (i > 0) joined += '\n';
    joined += text.string_view();
  }
  return takes_parts ? content.value() : Value(std::move(joined));
}

ChatInput read_messages(const JsonView& body, const ChatTemplate& chat) {
  const Fields fields{body};
  JsonView messages = body["messages"];
  if (messages.unset()) invalid("messages", "messages: field required");
  if (messages.kind() != Kind::kArray) wrong_type("messages", messages, "a list of messages");
  if (messages.size() == 0) invalid("messages", "messages: at least one is needed");
  ChatInput input;
  const bool takes_parts = chat.takes_content_parts();
  List list;
  for (size_t i = 0; i < messages.size(); ++i) {
    JsonView message = messages.at(i);
    if (message.kind() != Kind::kObject) wrong_type("messages", message, "a message with role and content");
    if (message["role"].kind() != Kind::kString) wrong_type("messages.role", message["role"], "a string");
    Dict dict;
    for (const std::string& key : message.keys())
      dict.set(key, key == "content" ? read_content(message[key], takes_parts) : message[key].value());
    if (message["content"].missing()) dict.set("content", Value(""));
    list.push_back(Value(std::move(dict)));
  }
  input.messages = Value(std::move(list));
  input.add_generation_prompt = fields.boolean("add_generation_prompt", true);
  input.continue_final_message = fields.boolean("continue_final_message", false);
  if (input.continue_final_message) {
    if (input.add_generation_prompt && !body["add_generation_prompt"].unset())
      invalid("continue_final_message", "continue_final_message and add_generation_prompt exclude each other");
    input.add_generation_prompt = false;
  }
  if (JsonView extra = body["chat_template_kwargs"]; !extra.unset()) {
    if (extra.kind() != Kind::kObject) wrong_type("chat_template_kwargs", extra, "an object");
    for (const std::string& key : extra.keys()) input.variables.set(key, extra[key].value());
  }
  return input;
}

JsonBody parse(const HttpRequest& request) {
  if (!request.headers.get("content-type").empty() && !request.is_json())
    throw RequestError(RequestError::Kind::kMalformed, "send the header Content-Type: application/json",
                       "content-type");
  JsonBody body(request.body);
  if (body.root().kind() != Kind::kObject) wrong_type("body", body.root(), "a JSON object");
  return body;
}

}  // namespace

Call read_chat(const HttpRequest& request, const Service& service) {
  const JsonBody json = parse(request);
  const JsonView body = json.root();
  const Fields fields{body};
  Call call;
  call.chat = true;
  GenerateRequest r = read_common(body, service, call);
  if (service.chat == nullptr)
    throw RequestError(RequestError::Kind::kTemplate,
                       "this model has no chat template; use /v1/completions with the whole prompt", "messages");
  if (asks(body["echo"], "")) invalid("echo", "echo is not supported by the chat route; leave it out");
  const int64_t top = fields.integer("top_logprobs").value_or(0);
  const bool logprobs = fields.boolean("logprobs", false);
  if (top != 0 && !logprobs) invalid("top_logprobs", "top_logprobs needs logprobs to be true");
  if (logprobs) set_logprobs(r, call, top, "top_logprobs", service.limits);
  const std::string prompt = service.chat->render(read_messages(body, *service.chat));
  r.prompt = service.tokenizer->encode(prompt, fields.boolean("add_special_tokens", false));
  auto wanted = fields.integer("max_completion_tokens");
  if (!wanted) wanted = fields.integer("max_tokens");
  fit(r, wanted, "max_tokens", body, service.limits, true);
  call.requests.push_back(std::move(r));
  return call;
}

Call read_completion(const HttpRequest& request, const Service& service) {
  const JsonBody json = parse(request);
  const JsonView body = json.root();
  const Fields fields{body};
  Call call;
  GenerateRequest common = read_common(body, service, call);
  call.echo = fields.boolean("echo", false);
  if (auto top = fields.integer("logprobs")) set_logprobs(common, call, *top, "logprobs", service.limits);
  if (call.echo && call.logprobs) {
    if (call.stream) invalid("echo", "echo together with logprobs is not supported when streaming");
    common.prompt_logprobs = true;
  }
  int64_t wanted = fields.integer("max_tokens").value_or(16);
  if (wanted == 0 && call.echo) {
    if (call.stream) invalid("max_tokens", "max_tokens 0 is not supported when streaming");
    call.only_prompt = true;
    common.n = common.best_of = call.n = 1;
    wanted = 1;
  }
  JsonView prompt = body["prompt"];
  if (prompt.unset()) invalid("prompt", "prompt: field required");
  std::vector<JsonView> prompts;
  const bool list = prompt.kind() == Kind::kArray;
  if (list && prompt.size() == 0) invalid("prompt", "prompt: the list is empty");
  if (list && prompt.at(0).kind() != Kind::kInteger) {
    for (size_t i = 0; i < prompt.size(); ++i) prompts.push_back(prompt.at(i));
  } else {
    prompts.push_back(prompt);
  }
  if (static_cast<int64_t>(prompts.size()) * call.n > service.limits.max_choices)
    invalid("prompt", fmt::format("prompt: {} prompts with n={} are more than {} answers in one request; split it",
                                  prompts.size(), call.n, service.limits.max_choices));
  const bool special = fields.boolean("add_special_tokens", true);
  for (const JsonView& one : prompts) {
    GenerateRequest r = common;
    if (one.kind() == Kind::kString)
      r.prompt = service.tokenizer->encode(one.string_view(), special);
    else if (one.kind() == Kind::kArray)
      r.prompt = read_ids("prompt", one, service.tokenizer->vocab_size());
    else
      wrong_type("prompt", one, "a string, a list of strings, or token ids");
    fit(r, wanted, "max_tokens", body, service.limits, false);
    if (call.echo)
      call.prompts.push_back(one.kind() == Kind::kString ? *one.string() : service.tokenizer->decode(r.prompt, true));
    call.requests.push_back(std::move(r));
  }
  return call;
}

}  // namespace sluice::openai
