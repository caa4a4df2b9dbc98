// SPDX-License-Identifier: Apache-2.0
// sluice bench quality: what rounding a model's weights costs. For each scheme: perplexity of the questions' texts and
// of the unrounded model's answers, and how many greedy answers contain the expected words.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>

#include "app/options.h"
#include "app/served_model.h"
#include "app/verb.h"
#include "app/verbs.h"
#include "base/error.h"
#include "base/file.h"
#include "base/log.h"

namespace sluice {
namespace {

struct QualityOptions {
  Settings settings = make_settings({Topic::kModel, Topic::kRun});
  std::string questions, json;
  std::vector<std::string> schemes{"none", "int8", "int4"};
  int64_t max_tokens = 48;
};

struct Question {
  std::vector<int32_t> prompt, answer;  // answer: of the first scheme, for the others' perplexity
  std::string expected;
};

// One sequence at a time through a model, without engine or scheduler.
class Runner {
 public:
  Runner(Model& model, Backend& backend, int64_t context) : model_(model), backend_(backend), context_(context) {
    RunLimits limits;
    blocks_ = (context + limits.block_size - 1) / limits.block_size;
    block_size_ = limits.block_size;
    limits.blocks.assign(model.cache_groups().size(), blocks_);
    limits.max_rows = limits.max_logits = limits.max_context = context;
    limits.max_seqs = 1;
    model.allocate(limits);
    check(model.cache_groups().size() <= BatchView::kMaxGroups, "a model has few cache groups");
  }

  // Logits of the rows of `tokens`, which follow those of earlier calls; `first` starts a new sequence.
  std::vector<float> step(std::span<const int32_t> tokens, bool first) {
    if (first) length_ = 0;
    const auto n = static_cast<int64_t>(tokens.size());
    std::vector<int32_t> positions, blocks, rows;
    for (int64_t i = 0; i < n; ++i) positions.push_back(static_cast<int32_t>(length_ + i));
    for (int64_t i = 0; i < n; ++i) rows.push_back(static_cast<int32_t>(i));
    for (int64_t i = 0; i < blocks_; ++i) blocks.push_back(static_cast<int32_t>(i));
    length_ += n;
    held_.clear();
    BatchView batch;
    batch.rows = batch.logits = n;
    batch.seqs = 1;
    batch.tokens = upload({tokens.begin(), tokens.end()});
    batch.positions = upload(positions);
    batch.first_row = upload({0, static_cast<int32_t>(n)});
    batch.context = upload({static_cast<int32_t>(length_)});
    batch.logits_rows = upload(rows);
    for (size_t g = 0; g < model_.cache_groups().size(); ++g) {
      batch.cache[g].slots = upload(positions);  // block i of the sequence is block i
      batch.cache[g].block_table = upload(blocks).reshaped({1, blocks_});
    }
    const Tensor logits = model_.forward(batch);
    std::vector<float> out(static_cast<size_t>(logits.elements()));
    backend_.copy_out(out.data(), logits);
    return out;
  }
  int64_t room() const { return context_ - length_; }

 private:
  Tensor upload(const std::vector<int32_t>& values) {
    held_.push_back(backend_.allocate(std::max<size_t>(1, values.size()) * sizeof(int32_t)));
    const Tensor out = held_.back().view(DType::kI32, {static_cast<int64_t>(values.size())});
    backend_.copy_in(out, values.data());
    return out;
  }
  Model& model_;
  Backend& backend_;
  int64_t context_, blocks_ = 0, block_size_ = 0, length_ = 0;
  std::vector<Buffer> held_;
};

// Minus the logarithm of the share that a row of logits gives to `token`.
double loss(const float* logits, int64_t vocab, int32_t token) {
  const float most = *std::max_element(logits, logits + vocab);
  double sum = 0;
  for (int64_t i = 0; i < vocab; ++i) sum += std::exp(static_cast<double>(logits[i] - most));
  return std::log(sum) - static_cast<double>(logits[token] - most);
}

std::string lower(std::string text) {
  for (char& c : text) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
  return text;
}

std::vector<Question> read_questions(const std::string& path, const ServedModel& model) {
  std::vector<Question> out;
  const std::string text = read_file(path);
  int line_number = 0;
  for (std::string_view rest = text; !rest.empty();) {
    const size_t end = rest.find('\n');
    const std::string_view line = rest.substr(0, end);
    rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 1);
    ++line_number;
    if (line.empty()) continue;
    const auto json = nlohmann::json::parse(line, nullptr, false);
    if (!json.is_object() || !json.contains("prompt") || !json["prompt"].is_string() || !json.contains("answer") ||
        !json["answer"].is_string())
      throw Error(fmt::format("{} line {}: expected {{\"prompt\": TEXT, \"answer\": TEXT}}", path, line_number));
    Question q;
    q.expected = json["answer"].get<std::string>();
    if (model.chat != nullptr) {
      Dict message;
      message.set("role", Value("user"));
      message.set("content", Value(json["prompt"].get<std::string>()));
      ChatInput input;
      input.messages = Value(List{Value(message)});
      q.prompt = model.tokenizer->encode(model.chat->render(input), false);
    } else {
      q.prompt = model.tokenizer->encode(json["prompt"].get<std::string>(), true);
    }
    if (q.prompt.size() < 2) throw Error(fmt::format("{} line {}: the prompt is empty", path, line_number));
    out.push_back(std::move(q));
  }
  if (out.empty()) throw Error(fmt::format("{} holds no questions", path));
  return out;
}

nlohmann::ordered_json measure(const QualityOptions& options, const ServedModel& served, const std::string& scheme,
                               std::vector<Question>& questions) {
  CpuOptions cpu;
  cpu.threads = static_cast<int>(options.settings.integer("threads"));
  cpu.isa = options.settings.text("cpu-isa");
  const auto backend = make_cpu_backend(cpu);
  Groups groups = solo_groups();
  ModelSource source = served.source;
  source.quantize = scheme == "none" ? "" : scheme;
  source.quiet = true;
  const auto model = load_model(source, *backend, groups);
  size_t longest = 0;
  for (const Question& q : questions) longest = std::max(longest, q.prompt.size());
  const int64_t context = std::min(model->info().max_positions, static_cast<int64_t>(longest) + options.max_tokens);
  Runner runner(*model, *backend, context);
  const int64_t vocab = model->info().vocab;
  const std::vector<int32_t>& eos = model->info().eos;
  double text_loss = 0, answer_loss = 0;
  int64_t text_tokens = 0, answer_tokens = 0, right = 0;
  const bool reference = questions.front().answer.empty();
  for (Question& q : questions) {
    if (static_cast<int64_t>(q.prompt.size()) > context) throw Error("a question is longer than the model's context");
    std::vector<float> logits = runner.step(q.prompt, true);
    for (size_t i = 0; i + 1 < q.prompt.size(); ++i, ++text_tokens)
      text_loss += loss(logits.data() + static_cast<int64_t>(i) * vocab, vocab, q.prompt[i + 1]);
    std::vector<int32_t> answer;
    while (runner.room() > 0 && static_cast<int64_t>(answer.size()) < options.max_tokens) {
      const float* last = logits.data() + logits.size() - vocab;
      answer.push_back(static_cast<int32_t>(std::max_element(last, last + vocab) - last));
      if (std::find(eos.begin(), eos.end(), answer.back()) != eos.end()) break;
      logits = runner.step({&answer.back(), 1}, false);
    }
    right += lower(served.tokenizer->decode(answer, true)).find(lower(q.expected)) != std::string::npos ? 1 : 0;
    if (reference) q.answer = answer;
    std::vector<int32_t> whole = q.prompt;
    whole.insert(whole.end(), q.answer.begin(), q.answer.end());
    whole.resize(std::min(whole.size(), static_cast<size_t>(context)));
    logits = runner.step(whole, true);
    for (size_t i = q.prompt.size(); i < whole.size(); ++i, ++answer_tokens)
      answer_loss += loss(logits.data() + static_cast<int64_t>(i - 1) * vocab, vocab, whole[i]);
  }
  const auto n = static_cast<double>(questions.size());
  return {{"scheme", scheme == "none" ? model->info().dtype : scheme},
          {"weight_bytes", model->info().weight_bytes},
          {"perplexity", std::exp(text_loss / static_cast<double>(std::max<int64_t>(1, text_tokens)))},
          {"answer_perplexity", std::exp(answer_loss / static_cast<double>(std::max<int64_t>(1, answer_tokens)))},
          {"answers_right", right},
          {"questions", questions.size()},
          {"answer_rate", static_cast<double>(right) / n}};
}

int run(QualityOptions& options) {
  check_settings(options.settings);
  set_log_level(parse_log_level(options.settings.text("log-level")));
  const ServedModel served = read_served_model(options.settings);
  if (served.null || served.source.folder.empty()) throw Error("bench quality needs a checkpoint; give --model FOLDER");
  std::vector<Question> questions = read_questions(options.questions, served);
  nlohmann::ordered_json report = nlohmann::ordered_json::array();
  fmt::print("{:<10} {:>12} {:>12} {:>18} {:>16}\n", "scheme", "weights MB", "perplexity", "answer perplexity",
             "answers right");
  for (const std::string& scheme : options.schemes) {
    const auto row = measure(options, served, scheme, questions);
    report.push_back(row);
    fmt::print("{:<10} {:>12.2f} {:>12.4f} {:>18.4f} {:>7} of {}, {:.1f} %\n", row["scheme"].get<std::string>(),
               row["weight_bytes"].get<double>() * 1e-6, row["perplexity"].get<double>(),
               row["answer_perplexity"].get<double>(), row["answers_right"].get<int64_t>(), questions.size(),
               100 * row["answer_rate"].get<double>());
  }
  if (!options.json.empty()) replace_file(options.json, report.dump(2) + "\n");
  return 0;
}

}  // namespace

void add_bench_quality(CLI::App& bench, int& exit_code) {
  const auto [verb, options] = add_verb<QualityOptions>(
      bench, "quality", "Perplexity and answer rate of a model for each scheme of --quantize.", exit_code, run);
  add_flags(*verb, options->settings,
            {"random-init",
             "quantize",
             "tp",
             "pp",
             "tp-across-hosts",
             "device",
             "gpu-memory-utilization",
             "deterministic",
             "all-reduce",
             "comm",
             "rendezvous",
             "formation-timeout",
             "experts",
             "load-threads",
             "max-batch-size",
             "max-batch-prefill-tokens",
             "max-batch-total-tokens",
             "max-total-tokens",
             "block-size",
             "prefix-cache",
             "seed"});
  verb->add_option("--questions", options->questions,
                   "JSON lines with prompt and answer, the words that a right answer contains.")
      ->required()
      ->check(CLI::ExistingFile);
  verb->add_option("--schemes", options->schemes,
                   "Schemes to compare; none is the checkpoint as it is. The first gives the answers whose perplexity "
                   "is measured.")
      ->delimiter(',')
      ->check(CLI::IsMember({"none", "int8", "int4"}))
      ->capture_default_str();
  verb->add_option("--max-tokens", options->max_tokens, "Longest answer.")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  verb->add_option("--json", options->json, "File for the figures.")->check(folder_is_there);
}

}  // namespace sluice
