// SPDX-License-Identifier: Apache-2.0
#include "api/dialects/openai_reply.h"

#include <algorithm>

#include "api/json.h"
#include "api/logprobs.h"

namespace sluice::openai {
namespace {

// TGI tells a stop string from the end of the text, and in completion streams names the latter eos_token.
std::string_view finish_name(const Call& call, FinishReason reason, bool chunk) {
  if (reason == FinishReason::kLength) return "length";
  if (call.manner != Manner::kTgi) return "stop";
  if (reason == FinishReason::kStop) return "stop_sequence";
  return chunk && !call.chat ? "eos_token" : "stop";
}

void append_finish(std::string& out, const Call& call, FinishReason reason, std::string_view stop_text, int32_t stop_id,
                   bool chunk) {
  out += ",\"finish_reason\":\"";
  out += finish_name(call, reason, chunk);
  out += '"';
  if (call.manner == Manner::kTgi) return;
  out += ",\"stop_reason\":";
  if (reason == FinishReason::kStop && !stop_text.empty())
    append_json_string(out, stop_text);
  else if (reason == FinishReason::kStop && stop_id >= 0)
    append_integer(out, stop_id);
  else
    out += "null";
}

void append_calls(std::string& out, const Call& call, std::string_view id, int64_t choice,
                  const std::vector<ToolCall>& calls, bool chunk) {
  out += "\"tool_calls\":[";
  for (size_t i = 0; i < calls.size(); ++i) {
    out += i > 0 ? ",{" : "{";
    if (chunk) {
      out += "\"index\":";
      append_integer(out, static_cast<int64_t>(i));
      out += ',';
    }
    out += "\"id\":\"call-";
    append_json_text(out, id);
    out += '-';
    append_integer(out, choice);
    out += '-';
    append_integer(out, static_cast<int64_t>(i));
    out += "\",\"type\":\"function\",\"function\":{";
    if (call.manner == Manner::kTgi) out += "\"description\":null,";
    out += "\"name\":";
    append_json_string(out, calls[i].name);
    out += ",\"arguments\":";
    append_json_string(out, calls[i].arguments);
    out += "}}";
  }
  out += ']';
}

// vLLM's two names of it.
void append_reasoning(std::string& out, std::string_view reasoning) {
  out += "\"reasoning_content\":";
  append_json_string(out, reasoning);
  out += ",\"reasoning\":";
  append_json_string(out, reasoning);
}

// A named function was asked for: to the client that is an answer like any other.
const char* calls_finish(const Call& call) {
  const bool plain = call.tools.choice == ToolUse::Choice::kNamed || call.manner == Manner::kTgi;
  return plain ? ",\"finish_reason\":\"stop\"" : ",\"finish_reason\":\"tool_calls\"";
}

void append_chat_logprobs(std::string& out, const Call& call, const TokenInfo* tokens, size_t count) {
  out += "{\"content\":";
  append_logprobs(out, tokens, count, call.tokens_by_id);
  out += '}';
}

void append_top(std::string& out, const Call& call, const TokenInfo& token) {
  out += '{';
  bool chosen = false;
  std::vector<std::string> seen;
  auto entry = [&](const TokenInfo& t) {
    std::string name = token_name(t, call.tokens_by_id);
    if (std::find(seen.begin(), seen.end(), name) != seen.end()) return;
    if (!seen.empty()) out += ',';
    append_json_string(out, name);
    out += ':';
    append_json_number(out, floored_logprob(t.logprob));
    seen.push_back(std::move(name));
  };
  for (size_t i = 0; i < std::min(token.top.size(), static_cast<size_t>(call.top)); ++i) {
    chosen = chosen || token.top[i].id == token.id;
    entry(token.top[i]);
  }
  if (!chosen) entry(token);
  out += '}';
}

// The completions form; the first token of a prompt has no probability.
void append_text_logprobs(std::string& out, const Call& call, const TokenInfo* tokens, size_t count, int64_t offset) {
  std::string offsets, values, names, tops;
  for (size_t i = 0; i < count; ++i) {
    const TokenInfo& token = tokens[i];
    if (i > 0)
      for (std::string* part : {&offsets, &values, &names, &tops}) *part += ',';
    append_integer(offsets, offset);
    offset += utf8_length(token.text);
    append_json_string(names, token_name(token, call.tokens_by_id));
    if (token.logprob != token.logprob) {
      values += "null";
      tops += "null";
    } else {
      append_json_number(values, floored_logprob(token.logprob));
      append_top(tops, call, token);
    }
  }
  out += "{\"text_offset\":[" + offsets + "],\"token_logprobs\":[" + values + "],\"tokens\":[" + names +
         "],\"top_logprobs\":[" + tops + "]}";
}

// As vLLM: a dictionary by id per token, the token itself first; for the first token null.
void append_prompt_logprobs(std::string& out, const Call& call, const std::vector<TokenInfo>& prompt) {
  if (call.prompt_top < 0) return;
  out += ",\"prompt_logprobs\":[";
  for (const TokenInfo& token : prompt) {
    if (&token != prompt.data()) out += ',';
    if (token.logprob != token.logprob) {
      out += "null";
      continue;
    }
    const auto entry = [&](const TokenInfo& t, int64_t rank) {
      out += '"';
      append_integer(out, t.id);
      out += "\":{\"logprob\":";
      append_json_number(out, floored_logprob(t.logprob));
      out += ",\"rank\":";
      append_integer(out, rank);
      out += ",\"decoded_token\":";
      append_json_string(out, t.text);
      out += '}';
    };
    out += '{';
    entry(token, token.rank);
    const auto n = std::min<int64_t>(std::ssize(token.top), call.prompt_top);
    for (int64_t i = 0; i < n; ++i) {
      const TokenInfo& other = token.top[static_cast<size_t>(i)];
      if (other.id == token.id) continue;
      out += ',';
      entry(other, i + 1);
    }
    out += '}';
  }
  out += ']';
}

void append_ids(std::string& out, std::string_view name, const std::vector<int32_t>& ids) {
  out += ",\"";
  out += name;
  out += "\":[";
  for (size_t i = 0; i < ids.size(); ++i) {
    if (i > 0) out += ',';
    append_integer(out, ids[i]);
  }
  out += ']';
}

void append_answer_ids(std::string& out, const Call& call, const Answer& answer) {
  if (!call.token_ids) return;
  std::vector<int32_t> ids;
  for (const TokenInfo& token : answer.tokens) ids.push_back(token.id);
  append_ids(out, "token_ids", ids);
}

std::string head(const Call& call, const Frame& frame, bool chunk) {
  std::string out = call.chat ? "{\"id\":\"chatcmpl-" : "{\"id\":\"cmpl-";
  append_json_text(out, frame.id);
  out += call.chat ? (chunk ? "\",\"object\":\"chat.completion.chunk\"" : "\",\"object\":\"chat.completion\"")
                   : "\",\"object\":\"text_completion\"";
  out += ",\"created\":";
  append_integer(out, frame.created);
  out += ",\"model\":";
  append_json_string(out, frame.model);
  out += ",\"system_fingerprint\":";
  append_json_string(out, frame.fingerprint);
  out += ",\"choices\":[";
  return out;
}

}  // namespace

bool tells_reasoning(const Call& call, std::string_view reasoning) {
  return call.chat && call.manner == Manner::kVllm && !reasoning.empty();
}

void append_usage(std::string& out, const Totals& totals) {
  out += "{\"prompt_tokens\":";
  append_integer(out, totals.prompt);
  out += ",\"total_tokens\":";
  append_integer(out, totals.prompt + totals.generated);
  out += ",\"completion_tokens\":";
  append_integer(out, totals.generated);
  out += ",\"prompt_tokens_details\":{\"cached_tokens\":";
  append_integer(out, totals.cached);
  out += "}}";
}

std::string whole(const Call& call, const Frame& frame, std::vector<std::vector<Answer>>& answers,
                  const std::vector<std::vector<TokenInfo>>& prompts, const Totals& totals) {
  std::string out = head(call, frame, false);
  int64_t index = 0;
  for (size_t p = 0; p < answers.size(); ++p) {
    for (Answer& answer : answers[p]) {
      out += index > 0 ? ",{\"index\":" : "{\"index\":";
      append_integer(out, index++);
      if (call.only_prompt) {
        answer.text.clear();
        answer.tokens.clear();
        answer.finish = FinishReason::kLength;
      }
      if (call.chat) {
        const std::vector<ToolCall> calls = find_calls(call.tools, answer.text);
        out += ",\"message\":{\"role\":\"assistant\",";
        if (tells_reasoning(call, answer.reasoning)) {
          append_reasoning(out, answer.reasoning);
          out += ',';
        }
        if (!calls.empty()) {
          if (call.manner != Manner::kTgi) out += "\"content\":null,";
          append_calls(out, call, frame.id, index - 1, calls, false);
          out += "},\"logprobs\":null";
          out += calls_finish(call);
          if (call.manner != Manner::kTgi) out += ",\"stop_reason\":null";
          append_answer_ids(out, call, answer);
          out += '}';
          continue;
        }
        out += "\"content\":\"";
        if (call.echo) append_json_text(out, call.prompts[p]);
        append_json_text(out, answer.text);
        out += "\"},\"logprobs\":";
        if (call.logprobs)
          append_chat_logprobs(out, call, answer.tokens.data(), answer.tokens.size());
        else
          out += "null";
      } else {
        out += ",\"text\":\"";
        if (call.echo) append_json_text(out, call.prompts[p]);
        append_json_text(out, answer.text);
        out += "\",\"logprobs\":";
        if (call.logprobs) {
          std::vector<TokenInfo> tokens = call.echo ? prompts[p] : std::vector<TokenInfo>();
          tokens.insert(tokens.end(), answer.tokens.begin(), answer.tokens.end());
          append_text_logprobs(out, call, tokens.data(), tokens.size(), 0);
        } else {
          out += "null";
        }
      }
      append_finish(out, call, answer.finish, answer.stop_text, answer.stop_id, false);
      append_answer_ids(out, call, answer);
      if (!call.chat && call.token_ids) append_ids(out, "prompt_token_ids", call.prompt_ids[p]);
      if (!call.chat) append_prompt_logprobs(out, call, prompts[p]);
      out += '}';
    }
  }
  out += "],\"usage\":";
  append_usage(out, totals);
  if (call.chat) append_prompt_logprobs(out, call, prompts[0]);
  if (call.chat && call.token_ids) append_ids(out, "prompt_token_ids", call.prompt_ids[0]);
  out += '}';
  return out;
}

Chunks::Chunks(const Call& call, const Frame& frame) : call_(call), id_(frame.id) {
  head_ = "data: " + head(call, frame, true);
}

// Ends choice, choices and event.
void Chunks::close(std::string& out, const Totals* so_far, const std::vector<int32_t>* prompt) const {
  out += "}]";
  if (prompt != nullptr) append_ids(out, "prompt_token_ids", *prompt);
  if (so_far != nullptr) {
    out += ",\"usage\":";
    append_usage(out, *so_far);
  } else if (call_.include_usage || call_.manner == Manner::kTgi) {
    out += ",\"usage\":null";
  }
  out += "}\n\n";
}

void Chunks::opening(std::string& out, int32_t index, std::string_view echo) const {
  out += head_;
  out += "{\"index\":";
  append_integer(out, index);
  if (call_.chat) {
    out += ",\"delta\":{\"role\":\"assistant\",\"content\":";
    append_json_string(out, echo);
    out += '}';
  } else {
    out += ",\"text\":";
    append_json_string(out, echo);
  }
  out += ",\"logprobs\":null,\"finish_reason\":null";
  close(out, nullptr, call_.chat && call_.token_ids && index == 0 ? call_.prompt_ids.data() : nullptr);
}

void Chunks::piece(std::string& out, int32_t index, const Event& event, int64_t offset, const Totals& so_far) const {
  const bool tgi = call_.manner == Manner::kTgi;
  out += head_;
  out += "{\"index\":";
  append_integer(out, index);
  out += !call_.chat ? ",\"text\":\""
         : tgi       ? ",\"delta\":{\"role\":\"assistant\",\"content\":\""
                     : ",\"delta\":{\"content\":\"";
  append_json_text(out, event.text);
  out += call_.chat ? "\"},\"logprobs\":" : "\",\"logprobs\":";
  if (call_.logprobs && event.has_token) {
    if (call_.chat)
      append_chat_logprobs(out, call_, &event.token, 1);
    else
      append_text_logprobs(out, call_, &event.token, 1, offset);
  } else {
    out += "null";
  }
  const bool ended = event.finish != FinishReason::kNone;
  if (ended)
    append_finish(out, call_, event.finish, event.stop_text, event.stop_id, true);
  else
    out += tgi && !call_.chat ? ",\"finish_reason\":\"\"" : ",\"finish_reason\":null";
  if (call_.token_ids && event.has_token) {
    if (!call_.chat && event.index == 1)
      append_ids(out, "prompt_token_ids", call_.prompt_ids[static_cast<size_t>(index / call_.n)]);
    append_ids(out, "token_ids", {event.token.id});
  }
  const bool tells = call_.continuous_usage || (tgi && !call_.chat && ended);
  close(out, tells ? &so_far : nullptr);
}

void Chunks::reasoning(std::string& out, int32_t index, std::string_view text) const {
  out += head_;
  out += "{\"index\":";
  append_integer(out, index);
  out += ",\"delta\":{";
  append_reasoning(out, text);
  out += "},\"logprobs\":null,\"finish_reason\":null";
  close(out, nullptr);
}

void Chunks::calls(std::string& out, int32_t index, const std::vector<ToolCall>& calls) const {
  out += head_;
  out += "{\"index\":";
  append_integer(out, index);
  out += ",\"delta\":{\"role\":\"assistant\",";
  append_calls(out, call_, id_, index, calls, true);
  out += "},\"logprobs\":null";
  out += calls_finish(call_);
  close(out, nullptr);
}

void Chunks::usage(std::string& out, const Totals& totals) const {
  out += head_;
  out += "],\"usage\":";
  append_usage(out, totals);
  out += "}\n\n";
}

void append_stream_error(std::string& out, const Call& call, std::string_view message) {
  out += "data: ";
  if (call.manner == Manner::kTgi) {
    out += "{\"error\":{\"message\":";
    append_json_string(out, message);
    out += ",\"http_status_code\":424}}";
  } else {
    append_error(out, 500, message, "InternalServerError", "");
  }
  out += "\n\n";
}

void append_error(std::string& out, int status, std::string_view message, std::string_view type,
                  std::string_view param) {
  out += "{\"error\":{\"message\":";
  append_json_string(out, message);
  out += ",\"type\":";
  append_json_string(out, type);
  out += ",\"param\":";
  if (param.empty())
    out += "null";
  else
    append_json_string(out, param);
  out += ",\"code\":";
  append_integer(out, status);
  out += "}}";
}

std::string model_card(const Service& service) {
  std::string out = "{\"id\":", created;
  append_integer(created, static_cast<int64_t>(service.started));
  append_json_string(out, service.model.id);
  out += ",\"object\":\"model\",\"created\":" + created + ",\"owned_by\":\"sluice\",\"root\":";
  append_json_string(out, service.model.root);
  out += ",\"parent\":null,\"max_model_len\":";
  append_integer(out, service.limits.max_total_tokens);
  out +=
      ",\"permission\":[{\"id\":\"modelperm-0\",\"object\":\"model_permission\",\"created\":" + created +
      ",\"allow_create_engine\":false,\"allow_sampling\":true,\"allow_logprobs\":true,\"allow_search_indices\":false,"
      "\"allow_view\":true,\"allow_fine_tuning\":false,\"organization\":\"*\",\"group\":null,\"is_blocking\":false}]}";
  return out;
}

std::string models(const Service& service) { return "{\"object\":\"list\",\"data\":[" + model_card(service) + "]}"; }

}  // namespace sluice::openai
