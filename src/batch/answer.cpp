// SPDX-License-Identifier: Apache-2.0
#include "batch/answer.h"

#include <fmt/format.h>

#include <fstream>

#include "base/error.h"

namespace sluice {
namespace {

Dict head(const Prompt& prompt) {
  Dict line;
  line.set("index", prompt.index);
  if (!prompt.id.is_null()) line.set("id", prompt.id);
  if (prompt.messages.is_list()) {
    line.set("messages", prompt.messages);
  } else if (prompt.error.empty()) {
    line.set("prompt", prompt.text);
  }
  return line;
}

Dict openai_head(const Prompt& prompt) {
  Dict line;
  line.set("id", request_id(prompt));
  line.set("custom_id", prompt.id);
  return line;
}

bool same(const Value& a, const Value& b) { return a.dump_compact() == b.dump_compact(); }

bool belongs(const Value& answer, const Prompt& prompt) {
  if (prompt.openai) {
    const Value *id = answer.find("id"), *custom = answer.find("custom_id");
    return id != nullptr && id->is_string() && id->as_string() == request_id(prompt) && custom != nullptr &&
           same(*custom, prompt.id) && answer.find("response") != nullptr;
  }
  const Value* index = answer.find("index");
  if (index == nullptr || !index->is_int() || index->as_int() != prompt.index) return false;
  if (!prompt.error.empty()) return answer.find("error") != nullptr;
  if (prompt.messages.is_list()) {
    const Value* messages = answer.find("messages");
    return messages != nullptr && same(*messages, prompt.messages);
  }
  const Value* text = answer.find("prompt");
  return text != nullptr && text->is_string() && text->as_string() == prompt.text;
}

bool carries_error(const Value& answer) {
  if (const Value* error = answer.find("error"); error != nullptr && !error->is_null()) return true;
  const Value* response = answer.find("response");
  const Value* status = response == nullptr ? nullptr : response->find("status_code");
  return status != nullptr && status->is_int() && status->as_int() >= 400;
}

}  // namespace

std::string request_id(const Prompt& prompt) { return fmt::format("batch_req_{}", prompt.index); }

std::string format_response(const Prompt& prompt, int status, const std::string& body) {
  // The body stays as it came, byte for byte.
  std::string line = Value(openai_head(prompt)).dump_compact();
  line.pop_back();
  return line + fmt::format(R"(,"response":{{"status_code":{},"request_id":"{}","body":{}}},"error":null}})", status,
                            request_id(prompt), body);
}

std::string format_answer(const Prompt& prompt, const std::string& text, FinishReason finish, const std::string& stop,
                          const Usage& usage) {
  Dict line = head(prompt);
  line.set("text", text);
  line.set("finish_reason", finish == FinishReason::kLength ? "length" : "stop");
  if (!stop.empty()) line.set("stop", stop);
  line.set("prompt_tokens", static_cast<int64_t>(usage.prompt_tokens));
  line.set("generated_tokens", static_cast<int64_t>(usage.generated_tokens));
  line.set("seed", static_cast<int64_t>(usage.seed));
  return Value(line).dump_compact();
}

std::string format_error(const Prompt& prompt, const std::string& error) {
  if (prompt.openai) {
    Dict line = openai_head(prompt), why;
    why.set("code", "invalid_request");
    why.set("message", error);
    line.set("response", Value());
    line.set("error", Value(why));
    return Value(line).dump_compact();
  }
  Dict line = head(prompt);
  line.set("error", error);
  return Value(line).dump_compact();
}

std::optional<int64_t> complete_output(const std::filesystem::path& output, const PromptFile& prompts) {
  std::error_code ignored;
  if (!std::filesystem::exists(output, ignored)) return std::nullopt;
  std::ifstream in(output);
  if (!in) throw Error(fmt::format("cannot read {}", output.string()));
  const auto refuse = [&](int64_t line) {
    throw Error(
        fmt::format("{} exists and does not hold the answers to these prompts (first difference at line {}); move it "
                    "away or choose another output",
                    output.string(), line));
  };
  std::string line;
  int64_t n = 0, errors = 0;
  while (std::getline(in, line)) {
    if (n >= prompts.size()) refuse(n + 1);
    try {
      const Value answer = Value::parse_json(line);
      if (!belongs(answer, prompts.read(n, {}))) refuse(n + 1);
      errors += carries_error(answer);
    } catch (const RequestError&) {
      refuse(n + 1);
    }
    ++n;
  }
  if (n != prompts.size()) refuse(n + 1);
  return errors;
}

}  // namespace sluice
