// SPDX-License-Identifier: Apache-2.0
#include "api/dialects/ollama_reply.h"

#include <fmt/format.h>

#include <cmath>
#include <ctime>

#include "api/logprobs.h"
#include "control/auth.h"
#include "text/channels.h"
#include "text/infill.h"

namespace sluice::ollama {
namespace {

void append_nanoseconds(std::string& out, std::string_view key, double seconds) {
  const auto value = static_cast<int64_t>(std::llround(seconds * 1e9));
  if (value <= 0) return;
  out += key;
  append_integer(out, value);
}

// Identifies the served model towards clients; a hash of its name and revision, not of its bytes.
std::string digest(const ModelFacts& facts) {
  std::string out;
  for (char c : sign("model", {facts.root, facts.revision}))
    out += fmt::format("{:02x}", static_cast<unsigned char>(c));
  return out;
}

std::string parameter_size(int64_t parameters) {
  const auto n = static_cast<double>(parameters);
  if (n >= 1e9) return fmt::format("{:.1f}B", n / 1e9);
  return n >= 1e6 ? fmt::format("{:.1f}M", n / 1e6) : fmt::format("{:.1f}K", n / 1e3);
}

std::string level(const ModelFacts& facts) {
  if (!facts.quantization.empty()) return facts.quantization;
  return facts.dtype == "float32"    ? "F32"
         : facts.dtype == "float16"  ? "F16"
         : facts.dtype == "bfloat16" ? "BF16"
                                     : facts.dtype;
}

void append_details(std::string& out, const ModelFacts& facts) {
  out += "\"details\":{\"parent_model\":\"\",\"format\":\"safetensors\",\"family\":";
  append_json_string(out, facts.family);
  out += ",\"families\":[";
  append_json_string(out, facts.family);
  out += "],\"parameter_size\":";
  append_json_string(out, parameter_size(facts.parameters));
  out += ",\"quantization_level\":";
  append_json_string(out, level(facts));
  out += '}';
}

std::string listed_name(const ModelFacts& facts) {
  const size_t folder = facts.id.rfind('/');
  const bool tagged = facts.id.find(':', folder == std::string::npos ? 0 : folder) != std::string::npos;
  return tagged ? facts.id : facts.id + ":latest";
}

// name, model, size, digest and details, as tags and ps share them.
void append_model(std::string& out, const ModelFacts& facts) {
  const std::string name = listed_name(facts);
  out += "{\"models\":[{\"name\":";
  append_json_string(out, name);
  out += ",\"model\":";
  append_json_string(out, name);
  out += ",\"size\":";
  append_integer(out, facts.weight_bytes);
  out += ",\"digest\":";
  append_json_string(out, digest(facts));
  out += ',';
  append_details(out, facts);
}

// Clients expect an object; what a model wrote as text and is none goes under a name of ours.
std::string as_object(const std::string& arguments) {
  try {
    const JsonBody body(arguments);
    if (body.root().kind() == JsonView::Kind::kObject) return body.root().dump();
  } catch (const RequestError&) {
  }
  std::string out = "{\"text\":";
  append_json_string(out, arguments);
  return out + "}";
}

}  // namespace

std::string timestamp(double wall) {
  const auto seconds = static_cast<time_t>(std::floor(wall));
  const auto nanoseconds = static_cast<int64_t>((wall - std::floor(wall)) * 1e9);
  std::tm utc{};
  ::gmtime_r(&seconds, &utc);
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:09}Z", utc.tm_year + 1900, utc.tm_mon + 1, utc.tm_mday,
                     utc.tm_hour, utc.tm_min, utc.tm_sec, nanoseconds);
}

void append_piece(std::string& out, const Call& call, double wall, std::string_view text, bool done,
                  const std::vector<ToolCall>& calls, std::string_view thinking) {
  out += "{\"model\":";
  append_json_string(out, call.model);
  out += ",\"created_at\":\"";
  out += timestamp(wall);
  out += call.chat ? "\",\"message\":{\"role\":\"assistant\",\"content\":" : "\",\"response\":";
  append_json_string(out, text);
  if (call.thinks && !thinking.empty()) {
    out += ",\"thinking\":";
    append_json_string(out, thinking);
  }
  if (!calls.empty()) {
    out += ",\"tool_calls\":[";
    for (size_t i = 0; i < calls.size(); ++i) {
      out += i > 0 ? ",{\"function\":{\"name\":" : "{\"function\":{\"name\":";
      append_json_string(out, calls[i].name);
      out += ",\"arguments\":" + as_object(calls[i].arguments) + "}}";
    }
    out += ']';
  }
  if (call.chat) out += '}';
  out += done ? ",\"done\":true" : ",\"done\":false";
}

void append_end(std::string& out, const Call& call, FinishReason finish, const Usage& usage, double seconds,
                const std::vector<int32_t>& context) {
  out += finish == FinishReason::kLength ? ",\"done_reason\":\"length\"" : ",\"done_reason\":\"stop\"";
  if (call.tells_context) {
    out += ",\"context\":[";
    for (size_t i = 0; i < context.size(); ++i) {
      if (i > 0) out += ',';
      append_integer(out, context[i]);
    }
    out += ']';
  }
  append_nanoseconds(out, ",\"total_duration\":", seconds);
  append_nanoseconds(out, ",\"load_duration\":", usage.queue_seconds);
  out += ",\"prompt_eval_count\":";
  append_integer(out, usage.prompt_tokens);
  append_nanoseconds(out, ",\"prompt_eval_duration\":", usage.prefill_seconds);
  out += ",\"eval_count\":";
  append_integer(out, usage.generated_tokens);
  append_nanoseconds(out, ",\"eval_duration\":", usage.decode_seconds);
}

void append_tokens(std::string& out, const Call& call, const std::vector<TokenInfo>& tokens) {
  if (!call.logprobs || tokens.empty()) return;
  out += ",\"logprobs\":";
  append_logprobs(out, tokens.data(), tokens.size());
}

void append_error(std::string& out, std::string_view message) {
  out += "{\"error\":";
  append_json_string(out, message);
  out += '}';
}

std::string tags(const ModelFacts& facts, double modified) {
  std::string out;
  append_model(out, facts);
  out += ",\"modified_at\":\"" + timestamp(modified) + "\"}]}";
  return out;
}

std::string running(const ModelFacts& facts, double started) {
  std::string out;
  append_model(out, facts);
  // The model stays as long as the server: a century counts as forever.
  out += ",\"expires_at\":\"" + timestamp(started + 100 * 366 * 86400.0) + "\",\"size_vram\":";
  append_integer(out, facts.device == "cuda" ? facts.weight_bytes : 0);
  out += ",\"context_length\":";
  append_integer(out, facts.max_context);
  out += "}]}";
  return out;
}

std::string show(const Service& service, bool verbose) {
  const ModelFacts& facts = service.model;
  std::string out = "{\"modelfile\":";
  append_json_string(out, "FROM " + facts.root + "\n");
  std::string parameters;
  if (facts.temperature != 1.0) parameters += fmt::format("temperature {}\n", facts.temperature);
  if (facts.top_p != 1.0) parameters += fmt::format("top_p {}\n", facts.top_p);
  if (facts.top_k != 0) parameters += fmt::format("top_k {}\n", facts.top_k);
  if (facts.repetition_penalty != 1.0) parameters += fmt::format("repeat_penalty {}\n", facts.repetition_penalty);
  if (!parameters.empty()) {
    out += ",\"parameters\":";
    append_json_string(out, parameters);
  }
  out += ",\"template\":";
  append_json_string(out, service.chat != nullptr ? service.chat->source() : "{{ .Prompt }}");
  out += ',';
  append_details(out, facts);
  out += ",\"model_info\":{\"general.architecture\":";
  append_json_string(out, facts.family);
  out += ",\"general.basename\":";
  append_json_string(out, facts.id);
  out += ",\"general.parameter_count\":";
  append_integer(out, facts.parameters);
  out += ",\"";
  append_json_text(out, facts.family);
  out += ".context_length\":";
  append_integer(out, facts.max_context);
  if (verbose) {
    out += ",\"tokenizer.ggml.tokens\":[";
    for (int32_t id = 0; id < service.tokenizer->vocab_size(); ++id) {
      if (id > 0) out += ',';
      append_json_string(out, service.tokenizer->token_text(id));
    }
    out += ']';
  }
  out += "},\"modified_at\":\"" + timestamp(service.started) + "\",\"capabilities\":[\"completion\"";
  if (service.chat != nullptr) out += ",\"tools\"";
  if (infill(*service.tokenizer, "", "")) out += ",\"insert\"";
  if (speaks_channels(*service.tokenizer)) out += ",\"thinking\"";
  out += "]}";
  return out;
}

}  // namespace sluice::ollama
