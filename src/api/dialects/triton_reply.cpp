// SPDX-License-Identifier: Apache-2.0
#include "api/dialects/triton_reply.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace sluice::triton {
namespace {

double cumulative(const Answer& answer) {
  double sum = 0;
  for (const TokenInfo& token : answer.tokens) sum += static_cast<double>(token.logprob);
  return sum;
}

std::string text_of(const Row& row, const Answer& answer) {
  return row.exclude_input ? answer.text : row.prompt + answer.text;
}

// One value stands alone, several are a list, as Triton unwraps them.
template <class T, class Append>
void append_unwrapped(std::string& out, const std::vector<T>& values, Append append) {
  if (values.size() == 1) return append(values[0]);
  out += '[';
  for (size_t i = 0; i < values.size(); ++i) {
    if (i > 0) out += ',';
    append(values[i]);
  }
  out += ']';
}

int64_t nanoseconds(double seconds) { return std::llround(seconds * 1e9); }

void append_count(std::string& out, const char* name, uint64_t count, double seconds) {
  out += fmt::format("\"{}\":{{\"count\":{},\"ns\":{}}}", name, count, nanoseconds(seconds));
}

void append_stages(std::string& out, uint64_t count, const CallStats::Times& t) {
  append_count(out, "compute_input", count, t.input);
  out += ',';
  append_count(out, "compute_infer", count, t.infer);
  out += ',';
  append_count(out, "compute_output", count, t.output);
}

Tensor numbers(std::string name, std::vector<int64_t> shape, const std::vector<double>& values) {
  Tensor tensor{std::move(name), "FP32", std::move(shape), {}};
  for (const double value : values) tensor.values.push_back({"", value, 0});
  return tensor;
}

}  // namespace

std::vector<Tensor> output_tensors(const ModelView& model, const std::vector<Row>& rows,
                                   const std::vector<Finished>& finished) {
  const auto batch = static_cast<int64_t>(rows.size());
  int64_t n = 1, longest = 1;
  for (const Row& row : rows) n = std::max<int64_t>(n, row.request.n);
  for (const Finished& f : finished)
    for (const Answer& answer : f.answers) longest = std::max<int64_t>(longest, answer.n_tokens);
  Tensor texts{model.example ? "sentences" : "text_output", "BYTES", {batch, n}, {}};
  Tensor lengths{"sequence_length", "INT64", {batch, n}, {}};
  std::vector<double> cumulatives, log_probs;
  if (model.example) texts.shape.push_back(1);
  for (size_t i = 0; i < rows.size(); ++i) {
    for (int64_t k = 0; k < n; ++k) {
      const bool there = k < rows[i].request.n;
      const Answer answer = there ? finished[i].answers[static_cast<size_t>(k)] : Answer{};
      std::string text = there ? text_of(rows[i], answer) : "";
      lengths.values.push_back({"", 0, utf8_length(text)});
      texts.values.push_back({std::move(text), 0, 0});
      cumulatives.push_back(rows[i].log_probs ? cumulative(answer) : 0);
      for (int64_t t = 0; t < longest; ++t)
        log_probs.push_back(t < static_cast<int64_t>(answer.tokens.size())
                                ? static_cast<double>(answer.tokens[static_cast<size_t>(t)].logprob)
                                : 0);
    }
  }
  std::vector<Tensor> out{std::move(texts)};
  if (model.example) {
    out.push_back(std::move(lengths));
    out.push_back(numbers("cum_log_probs", {batch, n}, cumulatives));
    return out;
  }
  out.push_back(numbers("cum_log_probs", {batch, n}, cumulatives));
  out.push_back(numbers("output_log_probs", {batch, n, longest}, log_probs));
  const std::vector<double> zeros(rows.size(), 0.0);
  for (const char* name : {"context_logits", "generation_logits"}) out.push_back(numbers(name, {batch, 1}, zeros));
  return out;
}

Piece whole_piece(const Row& row, const Finished& finished) {
  Piece piece;
  for (const Answer& answer : finished.answers) {
    piece.texts.push_back(text_of(row, answer));
    piece.cum_log_probs.push_back(row.log_probs ? cumulative(answer) : 0);
    if (row.log_probs) {
      for (const TokenInfo& token : answer.tokens) piece.log_probs.push_back(token.logprob);
    } else {
      piece.log_probs.resize(piece.log_probs.size() + static_cast<size_t>(answer.n_tokens));
    }
  }
  return piece;
}

void append_generated(std::string& out, std::string_view model, const Piece& piece) {
  out += "{\"context_logits\":0.0,\"cum_log_probs\":";
  append_unwrapped(out, piece.cum_log_probs, [&](double value) { append_json_number(out, static_cast<float>(value)); });
  out += ",\"generation_logits\":0.0,\"model_name\":";
  append_json_string(out, model);
  out += ",\"model_version\":\"1\",\"output_log_probs\":";
  append_unwrapped(out, piece.log_probs, [&](float value) { append_json_number(out, value); });
  out += ",\"sequence_end\":false,\"sequence_id\":0,\"sequence_start\":false,\"text_output\":";
  append_unwrapped(out, piece.texts, [&](const std::string& text) { append_json_string(out, text); });
  out += '}';
}

void append_error(std::string& out, std::string_view message) {
  out += "{\"error\":";
  append_json_string(out, message);
  out += '}';
}

std::string statistics(const std::vector<std::string>& models, const Metrics& metrics) {
  std::string out = "{\"model_stats\":[";
  for (const std::string& name : models) {
    const CallStats stats = metrics.calls(name);
    if (out.back() != '[') out += ',';
    out += "{\"name\":";
    append_json_string(out, name);
    out += fmt::format(",\"version\":\"1\",\"last_inference\":{},\"inference_count\":{},\"execution_count\":{},",
                       static_cast<int64_t>(stats.last * 1e3), stats.inferences, stats.succeeded);
    out += "\"inference_stats\":{";
    append_count(out, "success", stats.succeeded, stats.sum.total);
    out += ',';
    append_count(out, "fail", stats.failed, stats.failed_seconds);
    out += ',';
    append_count(out, "queue", stats.succeeded, stats.sum.queue);
    out += ',';
    append_stages(out, stats.succeeded, stats.sum);
    out += ',';
    append_count(out, "cache_hit", 0, 0);
    out += ',';
    append_count(out, "cache_miss", 0, 0);
    out += "},\"response_stats\":{},\"batch_stats\":[";
    for (const auto& [size, batch] : stats.batches) {
      if (out.back() != '[') out += ',';
      out += fmt::format("{{\"batch_size\":{},", size);
      append_stages(out, batch.count, batch.sum);
      out += '}';
    }
    out += "],\"memory_usage\":[]}";
  }
  out += "]}";
  return out;
}

}  // namespace sluice::triton
