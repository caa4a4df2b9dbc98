// SPDX-License-Identifier: Apache-2.0
#include "api/dialects/tgi_reply.h"

#include <algorithm>

#include "text/detokenizer.h"

namespace sluice::tgi {
namespace {

void append_bool(std::string& out, bool value) { out += value ? "true" : "false"; }

void append_optional_text(std::string& out, const std::string& text) {
  if (text.empty())
    out += "null";
  else
    append_json_string(out, text);
}

void append_seed(std::string& out, const Prepared& prepared, const Usage& usage) {
  if (prepared.sampling)
    append_unsigned(out, usage.seed);
  else
    out += "null";
}

void append_tokens(std::string& out, const std::vector<TokenInfo>& tokens) {
  out += '[';
  for (const TokenInfo& token : tokens) {
    if (&token != tokens.data()) out += ',';
    append_token(out, token);
  }
  out += ']';
}

double mean_logprob(const Answer& answer) {
  double sum = 0;
  for (const TokenInfo& token : answer.tokens) sum += token.logprob;
  return answer.tokens.empty() ? -1e30 : sum / static_cast<double>(answer.tokens.size());
}

// The members that details and each of best_of_sequences share.
void append_sequence(std::string& out, const Prepared& prepared, const Answer& answer, const Usage& usage,
                     const std::vector<TokenInfo>& prompt) {
  out += "\"finish_reason\":\"";
  out += finish_name(answer.finish);
  out += "\",\"generated_tokens\":";
  append_integer(out, answer.n_tokens);
  out += ",\"seed\":";
  append_seed(out, prepared, usage);
  out += ",\"prefill\":[";
  for (const TokenInfo& token : prompt) {
    if (&token != prompt.data()) out += ',';
    out += "{\"id\":";
    append_integer(out, token.id);
    out += ",\"text\":";
    append_json_string(out, token.text);
    out += ",\"logprob\":";
    append_json_number(out, token.logprob);
    out += '}';
  }
  out += "],\"tokens\":";
  append_tokens(out, answer.tokens);
  if (prepared.top_n > 0) {
    out += ",\"top_tokens\":[";
    for (const TokenInfo& token : answer.tokens) {
      if (&token != answer.tokens.data()) out += ',';
      append_tokens(out, token.top);
    }
    out += ']';
  }
}

}  // namespace

std::string_view finish_name(FinishReason reason) {
  switch (reason) {
    case FinishReason::kEos:
      return "eos_token";
    case FinishReason::kStop:
      return "stop_sequence";
    default:
      return "length";
  }
}

void append_token(std::string& out, const TokenInfo& token) {
  out += "{\"id\":";
  append_integer(out, token.id);
  out += ",\"text\":";
  append_json_string(out, token.text);
  out += ",\"logprob\":";
  append_json_number(out, token.logprob);
  out += ",\"special\":";
  append_bool(out, token.special);
  out += '}';
}

void append_whole(std::string& out, const Prepared& prepared, const std::vector<Answer>& answers, const Usage& usage,
                  const std::vector<TokenInfo>& prompt) {
  size_t best = 0;
  for (size_t i = 1; i < answers.size(); ++i)
    if (mean_logprob(answers[i]) > mean_logprob(answers[best])) best = i;
  out += "{\"generated_text\":\"";
  append_json_text(out, prepared.prefix);
  append_json_text(out, answers[best].text);
  out += '"';
  if (prepared.details) {
    out += ",\"details\":{";
    append_sequence(out, prepared, answers[best], usage, prompt);
    if (answers.size() > 1) {
      out += ",\"best_of_sequences\":[";
      bool first = true;
      for (size_t i = 0; i < answers.size(); ++i) {
        if (i == best) continue;
        out += first ? "{\"generated_text\":\"" : ",{\"generated_text\":\"";
        first = false;
        append_json_text(out, prepared.prefix);
        append_json_text(out, answers[i].text);
        out += "\",";
        append_sequence(out, prepared, answers[i], usage, prompt);
        out += '}';
      }
      out += ']';
    }
    out += '}';
  }
  out += '}';
}

void append_piece(std::string& out, const Prepared& prepared, const Event& event, const std::string* text,
                  const Usage* usage) {
  out += "data: {\"index\":";
  append_integer(out, event.index);
  out += ",\"token\":";
  append_token(out, event.token);
  if (prepared.top_n > 0) {
    out += ",\"top_tokens\":";
    append_tokens(out, event.token.top);
  }
  out += ",\"generated_text\":";
  if (text != nullptr) {
    out += '"';
    append_json_text(out, prepared.prefix);
    append_json_text(out, *text);
    out += '"';
  } else {
    out += "null";
  }
  out += ",\"details\":";
  if (usage != nullptr && prepared.details) {
    out += "{\"finish_reason\":\"";
    out += finish_name(event.finish);
    out += "\",\"generated_tokens\":";
    append_integer(out, event.index);
    out += ",\"seed\":";
    append_seed(out, prepared, *usage);
    out += ",\"input_length\":";
    append_integer(out, usage->prompt_tokens);
    out += '}';
  } else {
    out += "null";
  }
  out += "}\n\n";
}

void append_error(std::string& out, std::string_view message, std::string_view type) {
  out += "{\"error\":";
  append_json_string(out, message);
  out += ",\"error_type\":";
  append_json_string(out, type);
  out += '}';
}

std::string info(const Service& s) {
  std::string out = "{\"model_id\":";
  auto number = [&](const char* key, int64_t value) {
    out += key;
    append_integer(out, value);
  };
  append_json_string(out, s.model.id);
  out += ",\"model_sha\":";
  append_optional_text(out, s.model.revision);
  out += ",\"model_dtype\":";
  append_json_string(out, "torch." + s.model.dtype);
  out += ",\"model_device_type\":";
  append_json_string(out, s.model.device);
  out += ",\"model_pipeline_tag\":";
  append_optional_text(out, s.model.pipeline_tag);
  number(",\"max_concurrent_requests\":", s.limits.max_concurrent_requests);
  number(",\"max_best_of\":", s.limits.max_best_of);
  number(",\"max_stop_sequences\":", s.limits.max_stop_sequences);
  number(",\"max_input_length\":", s.limits.max_input_tokens);
  number(",\"max_input_tokens\":", s.limits.max_input_tokens);
  number(",\"max_total_tokens\":", s.limits.max_total_tokens);
  out += ",\"waiting_served_ratio\":";
  append_json_number(out, s.limits.waiting_served_ratio);
  number(",\"max_batch_total_tokens\":", s.limits.max_batch_total_tokens);
  number(",\"max_waiting_tokens\":", s.limits.max_waiting_tokens);
  out += ",\"max_batch_size\":";
  if (s.limits.max_batch_size > 0)
    append_integer(out, s.limits.max_batch_size);
  else
    out += "null";
  number(",\"validation_workers\":", 1);
  number(",\"max_client_batch_size\":", s.limits.max_client_batch_size);
  out += ",\"router\":\"sluice\",\"version\":";
  append_json_string(out, s.version);
  out += ",\"sha\":null,\"docker_label\":null}";
  return out;
}

std::string tokens(const Service& service, std::string_view inputs, bool add_special) {
  const Tokenizer& tokenizer = *service.tokenizer;
  Detokenizer decoder(tokenizer, true);
  std::string out = "[", text;
  size_t at = 0;
  for (int32_t id : tokenizer.encode(inputs, add_special)) {
    text.clear();
    decoder.append(id, text);
    // A special token that the text spells covers it; one that was added covers nothing.
    if (tokenizer.is_special(id) && inputs.substr(at).starts_with(tokenizer.token_text(id)))
      text = tokenizer.token_text(id);
    const std::string_view covered = inputs.substr(at, text.size());
    if (out.size() > 1) out += ',';
    out += "{\"id\":";
    append_integer(out, id);
    out += ",\"text\":";
    append_json_string(out, covered);
    out += ",\"start\":";
    append_integer(out, static_cast<int64_t>(at));
    at += covered.size();
    out += ",\"stop\":";
    append_integer(out, static_cast<int64_t>(at));
    out += '}';
  }
  out += ']';
  return out;
}

}  // namespace sluice::tgi
