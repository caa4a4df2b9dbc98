// SPDX-License-Identifier: Apache-2.0
#include "client/load_api.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstdlib>

#include "base/error.h"
#include "text/value.h"

namespace sluice {
namespace {

struct Row {
  const char* name;
  LoadApi api;
  LoadFraming framing;
  const char* path;
};
constexpr Row kRows[] = {
    {"chat", LoadApi::kChat, LoadFraming::kEvents, "/v1/chat/completions"},
    {"completions", LoadApi::kCompletions, LoadFraming::kEvents, "/v1/completions"},
    {"tgi", LoadApi::kTgi, LoadFraming::kEvents, "/generate_stream"},
    {"triton", LoadApi::kTriton, LoadFraming::kEvents, ""},
    {"ollama", LoadApi::kOllama, LoadFraming::kLines, "/api/generate"},
    {"maritalk", LoadApi::kMaritalk, LoadFraming::kWhole, "/generate"},
    {"energon", LoadApi::kEnergon, LoadFraming::kWhole, "/generation"},
};
const Row& row_of(LoadApi api) {
  for (const Row& row : kRows)
    if (row.api == api) return row;
  return kRows[0];
}

std::string quoted(const std::string& text) { return Value(text).dump_compact(); }

// What follows "key": in one event; a full parse per token would cost more than the server's own work.
std::string_view after(std::string_view data, std::string_view key) {
  const size_t at = data.find(key);
  if (at == std::string_view::npos) return {};
  data.remove_prefix(at + key.size());
  while (!data.empty() && (data[0] == ' ' || data[0] == ':')) data.remove_prefix(1);
  return data;
}
double number_after(std::string_view data, std::string_view key) {
  return std::atof(std::string(after(data, key).substr(0, 20)).c_str());
}
int64_t count_after(std::string_view data, std::string_view key) {
  return std::atoll(std::string(after(data, key).substr(0, 12)).c_str());
}
bool has_text(std::string_view data, std::string_view key) {
  const std::string_view text = after(data, key);
  return text.starts_with('"') && !text.starts_with("\"\"");
}

}  // namespace

std::vector<std::string> load_api_names() {
  std::vector<std::string> out;
  for (const Row& row : kRows) out.emplace_back(row.name);
  return out;
}

LoadApi parse_load_api(const std::string& name) {
  for (const Row& row : kRows)
    if (name == row.name) return row.api;
  throw Error(fmt::format("api: expected one of {}, found \"{}\"", fmt::join(load_api_names(), ", "), name));
}

LoadFraming load_framing(LoadApi api) { return row_of(api).framing; }

std::string load_path(LoadApi api, const std::string& model) {
  if (api != LoadApi::kTriton) return row_of(api).path;
  return fmt::format("/v2/models/{}/generate_stream", model.empty() ? "ensemble" : model);
}

std::string load_body(LoadApi api, const std::string& model, const LoadPrompt& prompt, int64_t max_tokens) {
  const std::string text = quoted(prompt.text);
  const std::string named = model.empty() ? "" : fmt::format("\"model\":{},", quoted(model));
  constexpr const char* kTail =
      R"("temperature":0,"ignore_eos":true,"stream":true,"stream_options":{"include_usage":true}})";
  switch (api) {
    case LoadApi::kChat:
      return fmt::format(
          "{{{}\"messages\":{},\"max_tokens\":{},{}", named,
          prompt.messages.empty() ? fmt::format(R"([{{"role":"user","content":{}}}])", text) : prompt.messages,
          max_tokens, kTail);
    case LoadApi::kCompletions:
      return fmt::format("{{{}\"prompt\":{},\"max_tokens\":{},{}", named, text, max_tokens, kTail);
    case LoadApi::kTgi:
      return fmt::format(R"({{"inputs":{},"parameters":{{"max_new_tokens":{}}}}})", text, max_tokens);
    case LoadApi::kTriton:
      return fmt::format(R"({{"text_input":{},"max_tokens":{},"min_tokens":{},"bad_words":"","stop_words":"",)"
                         R"("exclude_input_in_output":true,"stream":true}})",
                         text, max_tokens, max_tokens);
    case LoadApi::kOllama:
      return fmt::format(R"({{"model":{},"prompt":{},"options":{{"num_predict":{},"temperature":0}}}})", quoted(model),
                         text, max_tokens);
    case LoadApi::kMaritalk:  // hot, as its own benchmark asks, so that answers are long
      return fmt::format(R"({{"prompt":{},"do_sample":true,"temperature":3.0,"top_p":0.95,"max_tokens":{},)"
                         R"("stop_sequences":[],"seed":null}})",
                         text, max_tokens);
    default:
      return fmt::format(R"({{"prompt":{},"max_new_tokens":{}}})", text, max_tokens);
  }
}

std::string synthetic_prompt(int64_t serial, int64_t words) {
  static constexpr const char* kWords[] = {"river", "stone", "light", "seven", "paper", "north", "green", "quiet"};
  std::string out = fmt::format("{}", serial);
  for (int64_t i = 0; i < words; ++i) out += fmt::format(" {}", kWords[(serial + i * 5 + i / 8) % 8]);
  return out;
}

bool read_load_event(LoadApi api, std::string_view data, LoadReply& reply) {
  if (data == "[DONE]") return false;
  if (data.starts_with("{\"error\"")) {
    reply.failure = std::string(data.substr(0, 120));
    return false;
  }
  switch (api) {
    case LoadApi::kTgi:
      reply.tokens = count_after(data, "\"index\"");
      return has_text(data, "\"text\"");
    case LoadApi::kTriton:
      ++reply.tokens;
      return has_text(data, "\"text_output\"");
    case LoadApi::kOllama:
      if (const int64_t counted = count_after(data, "\"eval_count\""); counted > 0) {
        reply.tokens = counted;
        reply.prompt_tokens = count_after(data, "\"prompt_eval_count\"");
        reply.generation_seconds =
            (number_after(data, "\"eval_duration\"") + number_after(data, "\"prompt_eval_duration\"")) / 1e9;
      }
      return has_text(data, "\"response\"");
    case LoadApi::kMaritalk:
    case LoadApi::kEnergon: {
      const Value whole = Value::parse_json(data);
      const Value* text = whole.find(api == LoadApi::kEnergon ? "text" : "output");
      const Value* seconds = whole.find("generation_time");
      if (text == nullptr || !text->is_string()) return false;
      reply.text = text->as_string();
      if (seconds != nullptr && seconds->is_number()) reply.generation_seconds = seconds->as_float();
      return !reply.text.empty();
    }
    default:
      if (const int64_t counted = count_after(data, "\"completion_tokens\""); counted > 0) {
        reply.tokens = counted;
        reply.prompt_tokens = count_after(data, "\"prompt_tokens\"");
      }
      return has_text(data, api == LoadApi::kChat ? "\"content\"" : "\"text\"");
  }
}

}  // namespace sluice
