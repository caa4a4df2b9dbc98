// SPDX-License-Identifier: Apache-2.0
#include "api/dialects/triton_parse.h"

#include <fmt/format.h>

#include <algorithm>

#include "api/fields.h"
#include "api/prompt.h"

namespace sluice::triton {
namespace {

using Kind = JsonView::Kind;

void check_names(const std::vector<std::string>& got, const ModelView& model) {
  std::vector<std::string> missing;
  for (const TensorSpec& spec : model.inputs)
    if (!spec.optional && std::find(got.begin(), got.end(), spec.name) == got.end()) missing.emplace_back(spec.name);
  if (missing.empty()) return;
  const auto required = std::count_if(model.inputs.begin(), model.inputs.end(), [](auto& s) { return !s.optional; });
  invalid_field("inputs",
                fmt::format("[request id: <id_unknown>] expected number of inputs between {} and {} but got {} inputs "
                            "for model '{}'. Got input(s) ['{}'], but missing required input(s) ['{}']. Please provide "
                            "all required input(s).",
                            required, model.inputs.size(), got.size(), model.name, fmt::join(got, "','"),
                            fmt::join(missing, "','")));
}

const TensorSpec* find_spec(const ModelView& model, std::string_view name) {
  for (const TensorSpec& spec : model.inputs)
    if (spec.name == name) return &spec;
  return nullptr;
}

void add_members(const JsonView& object, const ModelView& model, Inputs& out, std::vector<std::string>& got) {
  for (const std::string& key : object.keys()) {
    const TensorSpec* spec = find_spec(model, key);
    const JsonView value = object[key];
    if (spec == nullptr || value.unset()) continue;
    got.push_back(key);
    std::vector<Scalar>& column = out[key];
    if (value.kind() != Kind::kArray) {
      column.push_back(read_scalar(key, spec->datatype, value));
      continue;
    }
    for (size_t i = 0; i < value.size(); ++i) column.push_back(read_scalar(key, spec->datatype, value.at(i)));
    if (spec->dim != -1 && value.size() != 1) wrong_type(key, value, "one value");
  }
}

// Reading one row.
struct Reader {
  const Inputs& inputs;

  const Scalar* first(std::string_view name) const {
    const auto found = inputs.find(name);
    return found == inputs.end() || found->second.empty() ? nullptr : &found->second[0];
  }
  int64_t integer(std::string_view name, int64_t otherwise) const {
    const Scalar* s = first(name);
    return s != nullptr ? s->integer : otherwise;
  }
  double number(std::string_view name, double otherwise) const {
    const Scalar* s = first(name);
    return s != nullptr ? s->number : otherwise;
  }
  bool flag(std::string_view name) const { return integer(name, 0) != 0; }
  std::vector<std::string> texts(std::string_view name) const {
    std::vector<std::string> out;
    const auto found = inputs.find(name);
    if (found == inputs.end()) return out;
    for (const Scalar& s : found->second)
      if (!s.text.empty()) out.push_back(s.text);
    return out;
  }
  void refuse(std::string_view name, bool asked) const {
    if (asked) invalid_field(std::string(name), fmt::format("{} is not supported by this server; leave it out", name));
  }
};

void add_bias(const Reader& reader, const Tokenizer& tokenizer, SamplingParams& s) {
  const auto words = reader.texts("embedding_bias_words");
  const auto found = reader.inputs.find("embedding_bias_weights");
  const size_t weights = found == reader.inputs.end() ? 0 : found->second.size();
  if (words.empty() && weights <= 1) return;
  if (words.size() != weights)
    invalid_field("embedding_bias_weights",
                  fmt::format("embedding_bias_weights: {} weights for {} words", weights, words.size()));
  for (size_t i = 0; i < words.size(); ++i)
    for (const int32_t id : tokenizer.encode(words[i], false))
      s.logit_bias.push_back({id, static_cast<float>(found->second[i].number)});
}

// Scores are sums of log probabilities, and a search ends with as many answers as beams, unless the request says else.
void read_beams(const Reader& reader, const Service& service, bool counted, Row& row) {
  const int64_t width = reader.integer("beam_width", 1);
  if (width < 1 || width > service.limits.max_choices)
    invalid_field("beam_width",
                  fmt::format("beam_width: expected 1 to {}, found {}", service.limits.max_choices, width));
  if (width == 1) return;
  if (row.stream) invalid_field("beam_width", "beam_width above 1 is not supported when streaming");
  GenerateRequest& r = row.request;
  r.beams = {static_cast<int32_t>(width), static_cast<float>(reader.number("length_penalty", 0)), EarlyStopping::kYes};
  if (!counted) r.n = r.best_of = static_cast<int32_t>(width);
}

GrammarSpec read_guide(const Reader& reader) {
  using Of = GrammarSpec::Kind;
  constexpr std::pair<std::string_view, Of> kinds[] = {
      {"json", Of::kJsonObject}, {"json_schema", Of::kJsonSchema}, {"regex", Of::kRegex}, {"ebnf_grammar", Of::kEbnf}};
  const auto types = reader.texts("guided_decoding_guide_type"), guides = reader.texts("guided_decoding_guide");
  if (types.empty() && guides.empty()) return {};
  for (const auto& [name, kind] : kinds) {
    if (types.empty() || types[0] != name) continue;
    if (guides.empty() != (kind == Of::kJsonObject))
      invalid_field("guided_decoding_guide",
                    fmt::format("guided_decoding_guide: expected {} for the type {}",
                                kind == Of::kJsonObject ? "none" : "the text that is to be followed", name));
    return {kind, guides.empty() ? "" : guides[0]};
  }
  invalid_field("guided_decoding_guide_type",
                fmt::format("guided_decoding_guide_type: expected json, json_schema, regex or ebnf_grammar, found {}",
                            types.empty() ? "none" : types[0]));
}

Row read_backend_row(const Reader& reader, const Service& service) {
  Row row;
  GenerateRequest& r = row.request;
  SamplingParams& s = r.sampling;
  row.prompt = reader.first("text_input")->text;
  reader.refuse("decoder_text_input", !reader.texts("decoder_text_input").empty());
  reader.refuse("prompt_embedding_table", reader.first("prompt_embedding_table") != nullptr);
  reader.refuse("prompt_vocab_size", reader.integer("prompt_vocab_size", 0) != 0);
  reader.refuse("return_context_logits", reader.flag("return_context_logits"));
  reader.refuse("return_generation_logits", reader.flag("return_generation_logits"));
  row.exclude_input = reader.flag("exclude_input_in_output");
  row.stream = reader.flag("stream");
  row.log_probs = reader.flag("return_log_probs");
  r.want_tokens = row.log_probs;
  if (row.log_probs) s.n_logprobs = 0;

  // As the backend: without top_k and top_p the best token is taken.
  const int64_t top_k = reader.integer("top_k", 0);
  const double top_p = reader.number("top_p", 0);
  if (top_k < 0) invalid_field("top_k", fmt::format("top_k: expected 0 or more, found {}", top_k));
  if (top_p < 0 || top_p > 1) invalid_field("top_p", fmt::format("top_p: expected 0 to 1, found {}", top_p));
  s.greedy = top_k == 1 || (top_k == 0 && top_p == 0);
  s.top_k = static_cast<int32_t>(std::min<int64_t>(top_k, INT32_MAX));
  s.top_p = top_p > 0 ? static_cast<float>(top_p) : 1.0f;
  if (const double temperature = reader.number("temperature", 1); temperature > 0)
    s.temperature = static_cast<float>(temperature);
  else
    s.greedy = true;
  const double repetition = reader.number("repetition_penalty", 1);
  if (!(repetition > 0))
    invalid_field("repetition_penalty", fmt::format("repetition_penalty: expected more than 0, found {}", repetition));
  s.repetition_penalty = static_cast<float>(repetition);
  s.presence_penalty = static_cast<float>(reader.number("presence_penalty", 0));
  s.frequency_penalty = static_cast<float>(reader.number("frequency_penalty", 0));
  const Scalar* seed = reader.first("random_seed") != nullptr ? reader.first("random_seed") : reader.first("seed");
  r.has_seed = seed != nullptr;
  s.seed = seed != nullptr ? static_cast<uint64_t>(seed->integer) : 0;
  r.min_new_tokens = static_cast<int32_t>(
      std::clamp<int64_t>(reader.integer("min_tokens", reader.integer("min_length", 0)), 0, INT32_MAX));
  const int64_t vocab = service.tokenizer->vocab_size();
  if (const int64_t end = reader.integer("end_id", -1); end >= 0) {
    if (end >= vocab)
      invalid_field("end_id", fmt::format("end_id: {} is outside the vocabulary of {} tokens", end, vocab));
    r.ignore_eos = true;
    r.stop_ids = {static_cast<int32_t>(end)};
  }
  const int64_t n = reader.integer("num_return_sequences", 1);
  if (n < 1 || n > service.limits.max_choices)
    invalid_field("num_return_sequences",
                  fmt::format("num_return_sequences: expected 1 to {}, found {}", service.limits.max_choices, n));
  r.n = r.best_of = static_cast<int32_t>(n);
  read_beams(reader, service, reader.first("num_return_sequences") != nullptr, row);
  r.stop = reader.texts("stop_words");
  if (r.stop.size() > 16) invalid_field("stop_words", "stop_words: at most 16 are supported");
  r.bad_words = reader.texts("bad_words");
  r.grammar = read_guide(reader);
  add_bias(reader, *service.tokenizer, s);
  r.prompt = service.tokenizer->encode(row.prompt, true);
  fit_prompt(r, reader.integer("max_tokens", 0), service.limits);
  r.min_new_tokens = std::min(r.min_new_tokens, r.max_new_tokens);
  return row;
}

Row read_example_row(const Reader& reader, const Service& service) {
  Row row;
  row.prompt = reader.first("prompts")->text;
  read_beams(reader, service, false, row);
  row.log_probs = true;
  row.request.want_tokens = true;
  row.request.sampling.n_logprobs = 0;
  row.request.prompt = service.tokenizer->encode(row.prompt, true);
  const int64_t wanted = reader.integer("request_output_len", 0);
  // The example cuts a prompt from the left where prompt and answer would not fit together.
  const int64_t room = std::min(service.limits.max_total_tokens - wanted, service.limits.max_input_tokens);
  auto& prompt = row.request.prompt;
  if (room > 0 && static_cast<int64_t>(prompt.size()) > room) prompt.erase(prompt.begin(), prompt.end() - room);
  fit_prompt(row.request, wanted, service.limits);
  return row;
}

}  // namespace

Inputs read_generate(const JsonView& body, const ModelView& model) {
  Inputs out;
  std::vector<std::string> got;
  add_members(body, model, out, got);
  add_members(body["parameters"], model, out, got);
  check_names(got, model);
  return out;
}

std::vector<Inputs> split_batch(const InferRequest& request, const ModelView& model) {
  std::vector<std::string> got;
  int64_t batch = -1;
  for (const Tensor& tensor : request.inputs) {
    const TensorSpec* spec = find_spec(model, tensor.name);
    if (spec == nullptr)
      invalid_field("inputs", fmt::format("[request id: <id_unknown>] unexpected inference input '{}' for model '{}'",
                                          tensor.name, model.name));
    if (tensor.datatype != spec->datatype)
      invalid_field("inputs",
                    fmt::format("[request id: <id_unknown>] inference input '{}' data-type is '{}', but model "
                                "'{}' expects '{}'",
                                tensor.name, tensor.datatype, model.name, spec->datatype));
    const bool fits = tensor.shape.size() == 2 && (spec->dim == -1 || tensor.shape[1] == spec->dim) &&
                      tensor.shape[0] > 0 && (batch < 0 || tensor.shape[0] == batch);
    if (!fits)
      invalid_field("inputs",
                    fmt::format("[request id: <id_unknown>] unexpected shape for input '{}' for model '{}'. Expected "
                                "[{},{}], got [{}]. ",
                                tensor.name, model.name, batch, spec->dim, fmt::join(tensor.shape, ",")));
    batch = tensor.shape[0];
    if (batch > kMaxBatch)
      invalid_field("inputs",
                    fmt::format("[request id: <id_unknown>] inference request batch-size must be <= {} for '{}'",
                                kMaxBatch, model.name));
    got.push_back(tensor.name);
  }
  check_names(got, model);
  std::vector<Inputs> rows(static_cast<size_t>(batch));
  for (const Tensor& tensor : request.inputs) {
    const size_t width = tensor.values.size() / rows.size();
    for (size_t i = 0; i < rows.size(); ++i) {
      const auto from = tensor.values.begin() + static_cast<std::ptrdiff_t>(i * width);
      rows[i][tensor.name].assign(from, from + static_cast<std::ptrdiff_t>(width));
    }
  }
  // The example uses the first row's length and width for the whole batch.
  if (model.example) {
    for (Inputs& row : rows)
      for (const char* name : {"request_output_len", "beam_width"})
        if (rows[0].contains(name)) row[name] = rows[0][name];
  }
  return rows;
}

Row read_row(const Inputs& inputs, const ModelView& model, const Service& service) {
  const Reader reader{inputs};
  return model.example ? read_example_row(reader, service) : read_backend_row(reader, service);
}

}  // namespace sluice::triton
