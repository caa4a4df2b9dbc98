// SPDX-License-Identifier: Apache-2.0
#include "batch/prompt_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string_view>

#include "base/error.h"
#include "engine/grammar_fields.h"
#include "engine/sampling_fields.h"

namespace sluice {
namespace {

constexpr size_t kMaxLine = 64u << 20;
constexpr int64_t kFormatLines = 16;  // looked at for the format: the first may be damaged

[[noreturn]] void bad(std::string_view key, std::string_view expected, const Value& found) {
  throw RequestError(RequestError::Kind::kValidation,
                     fmt::format("'{}': expected {}, found {}", key, expected, found.dump_compact()), std::string(key));
}

double number(std::string_view key, const Value& value, double low, double high, bool open_low = false) {
  if (!value.is_number() || value.is_bool()) bad(key, "a number", value);
  const double found = value.as_float();
  if (!(found <= high) || !(open_low ? found > low : found >= low))
    bad(key, fmt::format("a number {} {} and at most {}", open_low ? "above" : "from", low, high), value);
  return found;
}

int64_t integer(std::string_view key, const Value& value, int64_t low, int64_t high) {
  if (!value.is_int() || value.as_int() < low || value.as_int() > high)
    bad(key, fmt::format("a whole number from {} to {}", low, high), value);
  return value.as_int();
}

bool boolean(std::string_view key, const Value& value) {
  if (!value.is_bool()) bad(key, "true or false", value);
  return value.as_bool();
}

// One parameter. False when the key is none.
bool apply(std::string_view key, const Value& value, GenerateRequest& request, bool& said_sample) {
  SamplingParams& s = request.sampling;
  if (value.is_null()) return true;
  constexpr int64_t kMany = 1 << 24;
  if (key == "max_tokens" || key == "max_new_tokens" || key == "max_completion_tokens") {
    request.max_new_tokens = static_cast<int32_t>(integer(key, value, 1, kMany));
  } else if (key == "min_tokens" || key == "min_new_tokens") {
    request.min_new_tokens = static_cast<int32_t>(integer(key, value, 0, kMany));
  } else if (key == "temperature") {
    const double t = number(key, value, 0, 1e6);
    s.greedy = t < 1e-5;
    if (!s.greedy) s.temperature = static_cast<float>(t);
    said_sample = true;
  } else if (key == "do_sample") {
    s.greedy = !boolean(key, value);
    said_sample = true;
  } else if (key == "top_p") {
    s.top_p = static_cast<float>(number(key, value, 0, 1, true));
  } else if (key == "top_k") {
    const int64_t k = integer(key, value, -1, kMany);
    s.top_k = static_cast<int32_t>(std::max<int64_t>(k, 0));
  } else if (key == "min_p") {
    s.min_p = static_cast<float>(number(key, value, 0, 1));
  } else if (key == "typical_p") {
    s.typical_p = static_cast<float>(number(key, value, 0, 1, true));
  } else if (key == "repetition_penalty") {
    s.repetition_penalty = static_cast<float>(number(key, value, 0, 1e6, true));
  } else if (key == "frequency_penalty") {
    s.frequency_penalty = static_cast<float>(number(key, value, -2, 2));
  } else if (key == "presence_penalty") {
    s.presence_penalty = static_cast<float>(number(key, value, -2, 2));
  } else if (key == "seed") {
    s.seed = static_cast<uint64_t>(integer(key, value, 0, INT64_MAX));
    request.has_seed = true;
  } else if (key == "ignore_eos") {
    request.ignore_eos = boolean(key, value);
  } else if (key == "stop") {
    request.stop.clear();
    if (value.is_string()) {
      request.stop.push_back(value.as_string());
    } else if (value.is_list()) {
      for (const Value& item : value.as_list()) {
        if (!item.is_string() || item.as_string().empty()) bad(key, "non-empty strings", value);
        request.stop.push_back(item.as_string());
      }
    } else {
      bad(key, "a string or a list of strings", value);
    }
  } else {
    return read_sampling_field(key, value, request) || read_grammar_field(key, value, request);
  }
  return true;
}

void read_object(const Value& object, Prompt& prompt) {
  bool said_sample = false;
  bool has_prompt = false;
  const auto unknown = [](std::string_view key) {
    throw RequestError(RequestError::Kind::kValidation,
                       fmt::format("'{}' is not known; expected prompt or messages, id, and parameters such as "
                                   "max_tokens, temperature, top_p, top_k, seed, stop",
                                   key));
  };
  for (const auto& [key, value] : object.as_dict().entries()) {
    if (key == "prompt") {
      if (!value.is_string()) bad(key, "a string", value);
      prompt.text = value.as_string();
      has_prompt = true;
    } else if (key == "messages") {
      if (!value.is_list() || value.as_list().empty()) bad(key, "a list of {role, content} objects", value);
      for (const Value& message : value.as_list()) {
        const Value* role = message.find("role");
        if (role == nullptr || !role->is_string() || message.find("content") == nullptr)
          bad(key, "objects with role and content", message);
      }
      prompt.messages = value;
    } else if (key == "id" || key == "custom_id") {
      prompt.id = value;
    } else if (key == "parameters") {
      if (!value.is_dict()) bad(key, "an object", value);
      for (const auto& [name, inner] : value.as_dict().entries()) {
        if (!apply(name, inner, prompt.request, said_sample)) unknown("parameters." + name);
        prompt.parameters.set(name, inner);
      }
    } else if (!apply(key, value, prompt.request, said_sample)) {
      unknown(key);
    } else {
      prompt.parameters.set(key, value);
    }
  }
  if (has_prompt == prompt.messages.is_list()) {
    throw RequestError(RequestError::Kind::kValidation, has_prompt ? "'prompt' and 'messages' exclude each other"
                                                                   : "expected 'prompt' or 'messages', found neither");
  }
  if (has_prompt && prompt.text.empty()) throw RequestError(RequestError::Kind::kValidation, "'prompt' is empty");
  // As in TGI: a sampling parameter alone means sampling.
  const SamplingParams& s = prompt.request.sampling;
  if (!said_sample && (s.top_p < 1.0f || s.top_k > 0 || s.min_p > 0.0f || s.typical_p < 1.0f ||
                       s.epsilon_cutoff > 0.0f || s.eta_cutoff > 0.0f))
    prompt.request.sampling.greedy = false;
  if (!said_sample && prompt.request.beams.width > 1) prompt.request.sampling.greedy = true;
}

void read_openai(const Value& object, Prompt& prompt) {
  const auto text = [&](const char* key) -> const std::string& {
    const Value* value = object.find(key);
    if (value == nullptr || !value->is_string() || value->as_string().empty())
      throw RequestError(
          RequestError::Kind::kValidation,
          fmt::format("'{}': expected a string, found {}", key, value == nullptr ? "nothing" : value->dump_compact()));
    return value->as_string();
  };
  if (!object.is_dict()) throw RequestError(RequestError::Kind::kMalformed, "expected a JSON object");
  if (const Value* id = object.find("custom_id"); id != nullptr) prompt.id = *id;
  text("custom_id");
  if (text("method") != "POST")
    throw RequestError(RequestError::Kind::kValidation,
                       fmt::format("'method': expected POST, found {}", text("method")));
  const Value* body = object.find("body");
  if (body == nullptr || !body->is_dict())
    throw RequestError(RequestError::Kind::kValidation, "'body': expected an object");
  if (const Value* stream = body->find("stream"); stream != nullptr && stream->is_bool() && stream->as_bool())
    throw RequestError(RequestError::Kind::kValidation, "'body.stream': a batch is answered whole, found true");
  prompt.url = text("url");
  if (prompt.url != "/v1/chat/completions" && prompt.url != "/v1/completions") {
    throw RequestError(RequestError::Kind::kValidation,
                       fmt::format("'url': expected /v1/chat/completions or /v1/completions, found {}", prompt.url));
  }
  prompt.body = body->dump_compact();
}

bool is_openai(std::string_view line) {
  try {
    const Value value = Value::parse_json(line);
    return value.is_dict() && value.find("body") != nullptr && value.find("url") != nullptr;
  } catch (const RequestError&) {
    return false;
  }
}

}  // namespace

PromptFile::PromptFile(const std::filesystem::path& path) : file_(File::open_read(path)) {
  std::vector<char> chunk(4u << 20);
  const uint64_t size = file_.size();
  uint64_t begin = 0;
  uint32_t number = 1;
  bool blank = true;
  char first = '\0';
  const auto end_line = [&](uint64_t end) {
    if (!blank) {
      if (end - begin > kMaxLine)
        throw Error(
            fmt::format("{}: line {} has {} bytes; at most {} are read", path.string(), number, end - begin, kMaxLine));
      lines_.push_back({begin, static_cast<uint32_t>(end - begin), number});
    }
    begin = end + 1;
    blank = true;
    ++number;
  };
  for (uint64_t at = 0; at < size;) {
    const size_t n = static_cast<size_t>(std::min<uint64_t>(chunk.size(), size - at));
    file_.read_at(at, chunk.data(), n);
    for (size_t i = 0; i < n; ++i) hash_ = (hash_ ^ static_cast<unsigned char>(chunk[i])) * 0x100000001b3ull;
    for (size_t i = 0; i < n; ++i) {
      const char c = chunk[i];
      if (c == '\n') {
        end_line(at + i);
      } else if (blank && c != ' ' && c != '\t' && c != '\r') {
        blank = false;
        if (first == '\0') first = c;
      }
    }
    at += n;
  }
  end_line(size);
  if (lines_.empty())
    throw Error(fmt::format("{} holds no prompt; expected one per line, as plain text or JSON", path.string()));
  json_ = first == '{' || first == '"';
  for (int64_t i = 0; first == '{' && !openai_ && i < std::min<int64_t>(this->size(), kFormatLines); ++i)
    openai_ = is_openai(raw(i));
}

std::string PromptFile::raw(int64_t index) const {
  const Line& line = lines_.at(static_cast<size_t>(index));
  std::string bytes(line.bytes, '\0');
  file_.read_at(line.offset, bytes.data(), bytes.size());
  if (!bytes.empty() && bytes.back() == '\r') bytes.pop_back();
  return bytes;
}

Prompt PromptFile::read(int64_t index, const GenerateRequest& defaults) const {
  Prompt prompt;
  prompt.index = index;
  prompt.line = lines_.at(static_cast<size_t>(index)).number;
  prompt.request = defaults;
  prompt.openai = openai_;
  const std::string bytes = raw(index);
  if (!json_) {
    prompt.text = bytes;
    return prompt;
  }
  try {
    const Value value = Value::parse_json(bytes);
    if (openai_) {
      read_openai(value, prompt);
    } else if (value.is_string()) {
      if (value.as_string().empty()) throw RequestError(RequestError::Kind::kValidation, "the prompt is empty");
      prompt.text = value.as_string();
    } else if (value.is_dict()) {
      read_object(value, prompt);
    } else {
      throw RequestError(RequestError::Kind::kMalformed, "expected a JSON object or string");
    }
  } catch (const RequestError& error) {
    prompt.error = fmt::format("line {}: {}", prompt.line, error.what());
    prompt.url.clear();
  }
  return prompt;
}

}  // namespace sluice
