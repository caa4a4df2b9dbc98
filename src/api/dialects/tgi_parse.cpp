// SPDX-License-Identifier: Apache-2.0
#include "api/dialects/tgi_parse.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "engine/grammar_fields.h"

namespace sluice::tgi {
namespace {

[[noreturn]] void reject(int status, std::string text) { throw BodyRejection{status, std::move(text)}; }

[[noreturn]] void wrong_type(std::string_view path, const JsonView& found, std::string_view expected) {
  reject(422, fmt::format("Failed to deserialize the JSON body into the target type: {}: invalid type: {}, expected {}",
                          path, found.describe(), expected));
}

// Readers of one member; null counts as absent where `nullable`.
struct Reader {
  JsonView object;

  template <class T, class Get>
  std::optional<T> optional(std::string_view name, std::string_view expected, bool nullable, Get get) const {
    JsonView node = object[name];
    if (node.missing() || (nullable && node.unset())) return {};
    std::optional<T> value = get(node);
    if (!value) wrong_type(fmt::format("parameters.{}", name), node, expected);
    return value;
  }
  std::optional<int64_t> integer(std::string_view name, std::string_view expected) const {
    return optional<int64_t>(name, expected, true, [](const JsonView& n) { return n.integer(); });
  }
  std::optional<double> number(std::string_view name) const {
    return optional<double>(name, "f32", true, [](const JsonView& n) { return n.number(); });
  }
  std::optional<bool> boolean(std::string_view name, bool nullable) const {
    return optional<bool>(name, "a boolean", nullable, [](const JsonView& n) { return n.boolean(); });
  }
};

[[noreturn]] void invalid(const std::string& text) { throw RequestError(RequestError::Kind::kValidation, text); }

template <class... T>
[[noreturn]] void invalid(fmt::format_string<T...> format, T&&... values) {
  invalid(fmt::format(format, std::forward<T>(values)...));
}

void check_ranges(const Parameters& p, const Limits& limits, bool streaming) {
  const int64_t best_of = p.best_of.value_or(1);
  const bool sampling = p.do_sample || p.temperature || p.top_k || p.top_p || p.typical_p;
  if (p.best_of && (best_of <= 0 || best_of > limits.max_best_of))
    invalid("`best_of` must be > 0 and <= {}. Given: {}", limits.max_best_of, best_of);
  if (best_of > 1 && streaming) invalid("`best_of` != 1 is not supported when streaming tokens");
  if (p.decoder_input_details && streaming)
    invalid("`decoder_input_details` == true is not supported when streaming tokens");
  if (best_of > 1 && !sampling) invalid("you must use sampling when `best_of` is > 1");
  if (p.temperature && !(*p.temperature > 0)) invalid("`temperature` must be strictly positive");
  if (p.repetition_penalty && !(*p.repetition_penalty > 0)) invalid("`repetition_penalty` must be strictly positive");
  if (p.frequency_penalty && !(*p.frequency_penalty >= -2 && *p.frequency_penalty <= 2))
    invalid("`frequency_penalty` must be >= -2.0 and <= 2.0");
  if (p.top_p && !(*p.top_p > 0 && *p.top_p < 1)) invalid("`top_p` must be > 0.0 and < 1.0");
  if (p.typical_p && !(*p.typical_p > 0 && *p.typical_p < 1)) invalid("`typical_p` must be > 0.0 and < 1.0");
  if (p.top_k && *p.top_k <= 0) invalid("`top_k` must be strictly positive");
  if (p.max_new_tokens && *p.max_new_tokens <= 0) invalid("`max_new_tokens` must be strictly positive");
  if (static_cast<int64_t>(p.stop.size()) > limits.max_stop_sequences)
    invalid("`stop` supports up to {} stop sequences. Given: {}", limits.max_stop_sequences, p.stop.size());
  if (p.seed && best_of > 1) invalid("`seed` must not be set when `best_of` > 1");
  const int64_t most = std::min<int64_t>(limits.max_top_n_tokens, kMaxTopLogprobs);
  if (p.top_n_tokens && (*p.top_n_tokens < 0 || *p.top_n_tokens > most))
    invalid("`top_n_tokens` must be >= 0 and <= {}. Given: {}", most, *p.top_n_tokens);
  if (p.inputs.empty()) invalid("`inputs` cannot be empty");
  if (p.truncate && (*p.truncate <= 0 || *p.truncate > limits.max_input_tokens))
    invalid("`truncate` must be strictly positive and less than {}. Given: {}", limits.max_input_tokens, *p.truncate);
  if (p.adapter_id) invalid("`adapter_id` is not supported");
  for (const std::string& stop : p.stop)
    if (stop.empty()) invalid("`stop` cannot contain an empty string");
}

}  // namespace

Parameters read(const HttpRequest& request) {
  if (!request.is_json()) reject(415, "Expected request with `Content-Type: application/json`");
  std::unique_ptr<JsonBody> body;
  try {
    body = std::make_unique<JsonBody>(request.body);
  } catch (const RequestError& error) {
    reject(400, fmt::format("Failed to parse the request body as JSON: {}", error.what()));
  }
  return read_parameters(body->root());
}

Parameters read_parameters(const JsonView& root) {
  if (root.kind() != JsonView::Kind::kObject) wrong_type("body", root, "struct GenerateRequest");
  Parameters p;
  JsonView inputs = root["inputs"];
  if (inputs.missing()) reject(422, "Failed to deserialize the JSON body into the target type: missing field `inputs`");
  if (inputs.kind() != JsonView::Kind::kString) wrong_type("inputs", inputs, "a string");
  p.inputs = inputs.string_view();
  if (JsonView stream = root["stream"]; !stream.missing()) {
    if (!stream.boolean()) wrong_type("stream", stream, "a boolean");
    p.stream = *stream.boolean();
  }
  const JsonView parameters = root["parameters"];
  if (parameters.missing()) return p;
  if (parameters.kind() != JsonView::Kind::kObject) wrong_type("parameters", parameters, "struct GenerateParameters");

  const Reader reader{parameters};
  p.do_sample = reader.boolean("do_sample", false).value_or(false);
  p.best_of = reader.integer("best_of", "usize");
  p.temperature = reader.number("temperature");
  p.repetition_penalty = reader.number("repetition_penalty");
  p.frequency_penalty = reader.number("frequency_penalty");
  p.top_k = reader.integer("top_k", "i32");
  p.top_p = reader.number("top_p");
  p.typical_p = reader.number("typical_p");
  p.max_new_tokens = reader.integer("max_new_tokens", "u32");
  p.return_full_text = reader.boolean("return_full_text", true);
  p.truncate = reader.integer("truncate", "usize");
  p.watermark = reader.boolean("watermark", false).value_or(false);
  p.details = reader.boolean("details", false).value_or(false);
  p.decoder_input_details = reader.boolean("decoder_input_details", false).value_or(false);
  p.top_n_tokens = reader.integer("top_n_tokens", "u32");
  p.seed = reader.optional<uint64_t>("seed", "u64", true, [](const JsonView& n) { return n.unsigned_integer(); });
  if (JsonView grammar = parameters["grammar"]; !grammar.unset()) {
    GenerateRequest asked;
    read_grammar_field("grammar", grammar.value(), asked);
    p.grammar = std::move(asked.grammar);
  }
  p.adapter_id = !parameters["adapter_id"].unset();
  if (JsonView stop = parameters["stop"]; !stop.unset()) {
    if (stop.kind() != JsonView::Kind::kArray) wrong_type("parameters.stop", stop, "a sequence");
    for (size_t i = 0; i < stop.size(); ++i) {
      if (stop.at(i).kind() != JsonView::Kind::kString)
        wrong_type(fmt::format("parameters.stop[{}]", i), stop.at(i), "a string");
      p.stop.push_back(*stop.at(i).string());
    }
  }
  return p;
}

Prepared prepare(const Parameters& p, const Service& service, bool streaming, bool full_text_default) {
  const Limits& limits = service.limits;
  check_ranges(p, limits, streaming);
  Prepared out;
  GenerateRequest& r = out.request;
  r.prompt = service.tokenizer->encode(p.inputs, true);
  if (p.truncate && static_cast<int64_t>(r.prompt.size()) > *p.truncate)
    r.prompt.erase(r.prompt.begin(), r.prompt.end() - *p.truncate);
  const auto input = static_cast<int64_t>(r.prompt.size());
  const int64_t room = limits.room(input);
  const int64_t new_tokens = p.max_new_tokens.value_or(std::max<int64_t>(1, std::min(limits.default_new_tokens, room)));
  if (limits.prompt_apart && new_tokens > room) invalid("`max_new_tokens` must be <= {}. Given: {}", room, new_tokens);
  if (new_tokens > room)
    invalid("`inputs` tokens + `max_new_tokens` must be <= {}. Given: {} `inputs` tokens and {} `max_new_tokens`",
            limits.max_total_tokens, input, new_tokens);
  if (input > limits.max_input_tokens)
    invalid("`inputs` must have less than {} tokens. Given: {}", limits.max_input_tokens, input);
  if (input == 0) invalid("`inputs` cannot be empty");

  SamplingParams& s = r.sampling;
  s.temperature = static_cast<float>(p.temperature.value_or(1.0));
  s.top_k = static_cast<int32_t>(std::min<int64_t>(p.top_k.value_or(0), INT32_MAX));
  s.top_p = static_cast<float>(p.top_p.value_or(1.0));
  s.typical_p = static_cast<float>(p.typical_p.value_or(1.0));
  s.repetition_penalty = static_cast<float>(p.repetition_penalty.value_or(1.0));
  s.frequency_penalty = static_cast<float>(p.frequency_penalty.value_or(0.0));
  out.sampling = p.do_sample || s.temperature != 1.0f || s.top_k != 0 || s.top_p < 1.0f || s.typical_p < 1.0f;
  s.greedy = !out.sampling;
  s.raw_logprobs = false;
  if (p.watermark) {
    s.watermark_gamma = static_cast<float>(limits.watermark_gamma);
    s.watermark_delta = static_cast<float>(limits.watermark_delta);
  }
  s.seed = p.seed.value_or(0);
  r.has_seed = p.seed.has_value();
  out.top_n = p.top_n_tokens.value_or(0);
  out.best_of = p.best_of.value_or(1);
  out.details = p.details || p.decoder_input_details;
  r.want_tokens = streaming || out.details || out.best_of > 1;
  s.n_logprobs = r.want_tokens ? static_cast<int32_t>(out.top_n) : -1;
  r.n = r.best_of = static_cast<int32_t>(out.best_of);
  r.max_new_tokens = static_cast<int32_t>(new_tokens);
  r.stop = p.stop;
  r.grammar = p.grammar;
  r.keep_stop_text = true;
  if (p.decoder_input_details) r.prompt_logprobs = 0;
  if (p.return_full_text.value_or(full_text_default)) out.prefix = p.inputs;
  return out;
}

}  // namespace sluice::tgi
