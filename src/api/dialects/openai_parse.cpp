// SPDX-License-Identifier: Apache-2.0
#include "api/dialects/openai_parse.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "api/fields.h"
#include "api/prompt.h"
#include "base/error.h"
#include "engine/grammar_fields.h"
#include "engine/sampling_fields.h"
#include "text/channels.h"

namespace sluice::openai {
namespace {

using Kind = JsonView::Kind;

[[noreturn]] void invalid(std::string param, const std::string& text) { invalid_field(std::move(param), text); }

// Fields that change the answer and are not offered. `neutral`: a value that asks for nothing.
struct Unsupported {
  std::string_view name, neutral;
};
constexpr Unsupported kUnsupported[] = {{"functions", ""},
                                        {"function_call", "none"},
                                        {"guided_decoding_backend", ""},
                                        {"chat_template", ""},
                                        {"priority", ""},
                                        {"spaces_between_special_tokens", "true"},
                                        {"kv_transfer_params", ""},
                                        {"audio", ""},
                                        {"prediction", ""},
                                        {"web_search_options", ""},
                                        {"mm_processor_kwargs", ""},
                                        {"logits_processors", ""},
                                        {"thinking_token_budget", ""},
                                        {"logprob_token_ids", ""},
                                        {"repetition_detection", ""},
                                        {"prompt_embeds", ""},
                                        {"guided_whitespace_pattern", ""},
                                        {"cache_salt", ""},
                                        {"truncation_side", "left"},
                                        {"adapter_id", ""}};

void refuse_unsupported(const JsonView& body) {
  for (const Unsupported& field : kUnsupported) {
    JsonView node = body[field.name];
    if (!asks(node, field.neutral)) continue;
    invalid(std::string(field.name), fmt::format("{} is not supported by this server; leave it out", field.name));
  }
  JsonView modalities = body["modalities"];
  for (size_t i = 0; i < modalities.size(); ++i)
    if (modalities.at(i).string_view() != "text") invalid("modalities", "modalities: only \"text\" is supported");
}

}  // namespace

bool expects_tgi(const Headers& headers, const BodyOutline& body) {
  return body.model == "tgi" || body.model == "dummy" || body.has("tool_prompt") ||
         headers.get("user-agent").find("hf_hub/") != std::string_view::npos;
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

namespace {

std::vector<LogitBias> read_bias(const JsonView& map, int64_t vocab) {
  std::vector<LogitBias> out;
  if (map.unset() || (map.kind() == Kind::kArray && map.size() == 0)) return out;
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

// use_beam_search takes best_of beams, num_beams says their number itself. False: no search.
bool read_beams(const Fields& fields, int64_t best_of, bool stream, GenerateRequest& r) {
  const bool asked = fields.boolean("use_beam_search", false);
  if (asked && r.beams.width == 1) r.beams.width = static_cast<int32_t>(std::min<int64_t>(best_of, INT32_MAX));
  if (asked && r.beams.width == 1)
    invalid("use_beam_search", "use_beam_search needs a number of beams above 1: best_of, n or num_beams");
  if (r.beams.width == 1) return false;
  if (stream)
    invalid("use_beam_search", "beam search is not supported when streaming: its answers are known at its end");
  if (!fields.number("temperature")) r.sampling.greedy = true;
  return true;
}

int32_t alternatives(int64_t asked, const std::string& name, const Limits& limits) {
  const int64_t most = std::min<int64_t>(limits.max_logprobs, kMaxTopLogprobs);
  if (asked < 0 || asked > most) invalid(name, fmt::format("{} must be from 0 to {}, got {}.", name, most, asked));
  return static_cast<int32_t>(asked);
}

// What chat and completions share; the prompt and max_tokens come later.
GenerateRequest read_common(const JsonView& body, const Service& service, Call& call) {
  const Fields fields{body};
  const ModelFacts& facts = service.model;
  if (call.manner != Manner::kTgi) check_model(body, facts);
  refuse_unsupported(body);
  GenerateRequest r;
  SamplingParams& s = r.sampling;
  set_temperature(s, fields.number("temperature").value_or(call.manner == Manner::kFastChat ? 0.7 : facts.temperature),
                  "temperature");
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
  const auto seed = fields.seed("seed");
  s.seed = seed.value_or(0);
  r.has_seed = seed.has_value();
  r.stop = fields.strings("stop");
  for (const std::string& text : r.stop)
    if (text.empty()) invalid("stop", "stop cannot contain an empty string.");
  if (static_cast<int64_t>(r.stop.size()) > std::max<int64_t>(4, service.limits.max_stop_sequences))
    invalid("stop", fmt::format("stop supports up to {} strings, got {}.",
                                std::max<int64_t>(4, service.limits.max_stop_sequences), r.stop.size()));
  for (const std::string_view name : sampling_field_names()) {
    if (JsonView field = body[name]; !field.unset()) read_sampling_field(name, field.value(), r);
  }
  for (const char* name :
       {"response_format", "guided_json", "guided_regex", "guided_choice", "guided_grammar", "structured_outputs"}) {
    if (JsonView field = body[name]; !field.unset()) read_grammar_field(name, field.value(), r);
  }
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
    call.continuous_usage = call.include_usage && Fields{options}.boolean("continuous_usage_stats", false);
  }
  int64_t best_of = fields.integer("best_of").value_or(n);
  if (best_of < n)
    invalid("best_of", fmt::format("best_of must be greater than or equal to n, got n={} and best_of={}.", n, best_of));
  if (read_beams(fields, best_of, call.stream, r)) best_of = n;
  if (best_of > n && call.stream) invalid("best_of", "best_of greater than n is not supported when streaming");
  if (best_of > std::max(n, service.limits.max_best_of))
    invalid("best_of", fmt::format("best_of must be at most {} (MAX_BEST_OF), got {}.",
                                   std::max(n, service.limits.max_best_of), best_of));
  r.best_of = static_cast<int32_t>(best_of);
  call.token_ids = r.want_tokens = fields.boolean("return_token_ids", false);
  call.tokens_by_id = fields.boolean("return_tokens_as_token_ids", false);
  if (const auto top = fields.integer("prompt_logprobs")) {
    if (call.stream) invalid("prompt_logprobs", "prompt_logprobs are not available when streaming");
    r.prompt_logprobs = call.prompt_top = alternatives(*top, "prompt_logprobs", service.limits);
  }
  return r;
}

void set_logprobs(GenerateRequest& r, Call& call, int64_t top, const std::string& name, const Limits& limits) {
  r.sampling.n_logprobs = call.top = alternatives(top, name, limits);
  call.logprobs = true;
  r.want_tokens = true;
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
  if (limits.prompt_apart && asked > limits.room(input))
    invalid(param, fmt::format("This model's maximum answer is {} tokens. However, you requested {} tokens.",
                               limits.room(input), asked));
  if (asked > limits.room(input))
    invalid(part,
            fmt::format("This model's maximum context length is {} tokens. However, you requested {} tokens ({} in the "
                        "{}, {} in the completion). Please reduce the length of the {} or completion.",
                        limits.max_total_tokens, static_cast<uint64_t>(input) + static_cast<uint64_t>(asked), input,
                        part, asked, part));
  if (input > limits.max_input_tokens)
    invalid(part,
            fmt::format("This server takes at most {} prompt tokens (MAX_INPUT_TOKENS). However, the {} {} {} tokens.",
                        limits.max_input_tokens, part, chat ? "have" : "has", input));
  r.max_new_tokens = static_cast<int32_t>(wanted.value_or(limits.room(input)));
  if (r.min_new_tokens > r.max_new_tokens)
    invalid("min_tokens", fmt::format("min_tokens must be less than or equal to max_tokens={}, got {}.",
                                      r.max_new_tokens, r.min_new_tokens));
}

ChatInput read_chat_input(const JsonView& body, const ChatTemplate& chat) {
  const Fields fields{body};
  ChatInput input;
  input.messages = read_messages(body["messages"], chat);
  if (JsonView documents = body["documents"]; !documents.unset()) {
    if (documents.kind() != Kind::kArray) wrong_type("documents", documents, "a list of documents");
    input.documents = documents.value();
  }
  input.add_generation_prompt = fields.boolean("add_generation_prompt", true);
  input.continue_final_message = fields.boolean("continue_final_message", false);
  if (input.continue_final_message) {
    if (input.add_generation_prompt && !body["add_generation_prompt"].unset())
      invalid("continue_final_message", "continue_final_message and add_generation_prompt exclude each other");
    input.add_generation_prompt = false;
  }
  if (fields.string("reasoning_effort")) input.variables.set("reasoning_effort", body["reasoning_effort"].value());
  if (JsonView extra = body["chat_template_kwargs"]; !extra.unset()) {
    if (extra.kind() != Kind::kObject) wrong_type("chat_template_kwargs", extra, "an object");
    for (const std::string& key : extra.keys()) input.variables.set(key, extra[key].value());
  }
  return input;
}

// What the assistant said last, if nobody has spoken since.
std::string last_words(const JsonView& messages) {
  if (messages.kind() != Kind::kArray) return "";  // FastChat's one string
  const JsonView last = messages.at(messages.size() - 1);
  if (last["role"].string_view() != "assistant") return "";
  const JsonView content = last["content"];
  if (content.kind() != Kind::kArray) return content.string().value_or("");
  std::string out;
  for (size_t i = 0; i < content.size(); ++i) {
    if (i > 0) out += '\n';
    out += content.at(i)["text"].string().value_or("");
  }
  return out;
}

}  // namespace

JsonBody parse(const HttpRequest& request) {
  if (!request.headers.get("content-type").empty() && !request.is_json())
    throw RequestError(RequestError::Kind::kMalformed, "send the header Content-Type: application/json",
                       "content-type");
  return read_object(request.body);
}

std::string render_chat(const JsonView& body, const Service& service, const ToolUse& tools) {
  const ChatTemplate& chat = chat_of(service, "use /v1/completions with the whole prompt");
  ChatInput input = read_chat_input(body, chat);
  show_tools(input, tools, chat, Fields{body}.string("tool_prompt").value_or(""));
  return chat.render(input);
}

Call read_chat(const HttpRequest& request, const Service& service, Manner manner) {
  const JsonBody json = parse(request);
  const JsonView body = json.root();
  const Fields fields{body};
  Call call;
  call.manner = manner;
  call.chat = true;
  GenerateRequest r = read_common(body, service, call);
  if (asks(body["suffix"], "")) invalid("suffix", "suffix is not supported by the chat route; leave it out");
  call.echo = fields.boolean("echo", false);
  if (call.echo && manner == Manner::kTgi) invalid("echo", "echo is not supported by TGI's chat route; leave it out");
  const int64_t top = fields.integer("top_logprobs").value_or(0);
  const bool logprobs = fields.boolean("logprobs", false);
  if (top != 0 && !logprobs) invalid("top_logprobs", "top_logprobs needs logprobs to be true");
  if (logprobs) set_logprobs(r, call, top, "top_logprobs", service.limits);
  call.tools = read_tools(body["tools"], body["tool_choice"]);
  if (call.tools.choice != ToolUse::Choice::kNone && logprobs)
    invalid("logprobs", "logprobs together with tools are not supported; leave one of them out");
  if (call.tools.choice != ToolUse::Choice::kNone && call.token_ids && call.stream)
    invalid("return_token_ids", "return_token_ids together with tools is not supported when streaming");
  if (call.tools.choice == ToolUse::Choice::kRequired || call.tools.choice == ToolUse::Choice::kNamed) {
    if (r.grammar.kind != GrammarSpec::Kind::kNone)
      invalid("tool_choice", "tool_choice forces a call, so no other field can say what the answer looks like");
    r.grammar = {GrammarSpec::Kind::kJsonSchema, tool_schema(call.tools)};
  }
  const std::string prompt = render_chat(body, service, call.tools);
  r.prompt = service.tokenizer->encode(prompt, fields.boolean("add_special_tokens", false));
  r.channels = r.skip_special && speaks_channels(*service.tokenizer);
  auto wanted = fields.integer("max_completion_tokens");
  if (!wanted) wanted = fields.integer("max_tokens");
  fit(r, wanted, "max_tokens", body, service.limits, true);
  if (call.echo) call.prompts.push_back(last_words(body["messages"]));
  if (call.token_ids) call.prompt_ids.push_back(r.prompt);
  call.requests.push_back(std::move(r));
  return call;
}

Call read_completion(const HttpRequest& request, const Service& service, Manner manner) {
  const JsonBody json = parse(request);
  const JsonView body = json.root();
  const Fields fields{body};
  Call call;
  call.manner = manner;
  GenerateRequest common = read_common(body, service, call);
  call.echo = fields.boolean("echo", false);
  if (auto top = fields.integer("logprobs")) set_logprobs(common, call, *top, "logprobs", service.limits);
  if (call.echo && call.logprobs) {
    if (call.stream) invalid("echo", "echo together with logprobs is not supported when streaming");
    common.prompt_logprobs = std::max(common.prompt_logprobs, call.top);
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
  const std::string suffix = fields.string("suffix").value_or("");
  if (!suffix.empty() && (call.echo || !body["truncate_prompt_tokens"].unset()))
    invalid("suffix", "suffix together with echo or truncate_prompt_tokens is not supported; leave one of them out");
  for (const JsonView& one : prompts) {
    GenerateRequest r = common;
    if (!suffix.empty()) {
      if (one.kind() != Kind::kString) invalid("suffix", "suffix needs a prompt that is a string");
      if (!fill_in(r, *service.tokenizer, one.string_view(), suffix, special))
        invalid("suffix", "suffix is not supported by this model: its vocabulary has no tokens to fill in the middle");
    } else if (one.kind() == Kind::kString) {
      r.prompt = service.tokenizer->encode(one.string_view(), special);
    } else if (one.kind() == Kind::kArray) {
      r.prompt = read_ids("prompt", one, service.tokenizer->vocab_size());
    } else {
      wrong_type("prompt", one, "a string, a list of strings, or token ids");
    }
    fit(r, wanted, "max_tokens", body, service.limits, false);
    if (call.echo)
      call.prompts.push_back(one.kind() == Kind::kString ? *one.string() : service.tokenizer->decode(r.prompt, true));
    if (call.token_ids) call.prompt_ids.push_back(r.prompt);
    call.requests.push_back(std::move(r));
  }
  return call;
}

}  // namespace sluice::openai
