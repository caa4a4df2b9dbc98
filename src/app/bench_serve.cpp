// SPDX-License-Identifier: Apache-2.0
// sluice bench serve: load on a running server, with latency percentiles.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>
#include <memory>

#include "app/address.h"
#include "app/bench_report.h"
#include "app/verb.h"
#include "app/verbs.h"
#include "base/error.h"
#include "base/file.h"
#include "batch/prompt_file.h"
#include "chat/speaker.h"
#include "text/tokenizer.h"

namespace sluice {
namespace {

struct BenchServeOptions {
  LoadOptions load;
  std::string url, api = "chat", key_file, via, json, csv, plot, prompt, prompts, tokenizer;
  std::vector<int64_t> streams = {16};
  std::vector<double> rates;
  std::vector<std::string> goodput;
  int64_t repeats = 0, prompt_size = 0;
  bool maritalk() const { return repeats > 0; }
};

// "ttft:500" and the like, milliseconds.
LoadTargets read_targets(const std::vector<std::string>& words) {
  LoadTargets out;
  for (const std::string& word : words) {
    const size_t colon = word.find(':');
    const std::string name = word.substr(0, colon);
    double* target = name == "ttft"                    ? &out.ttft
                     : name == "tpot"                  ? &out.tpot
                     : name == "e2e" || name == "e2el" ? &out.e2e
                                                       : nullptr;
    const double value = colon == std::string::npos ? 0 : std::strtod(word.c_str() + colon + 1, nullptr);
    if (target == nullptr || value <= 0)
      throw Error(fmt::format("--goodput: expected ttft:MS, tpot:MS or e2e:MS, found \"{}\"", word));
    *target = value / 1e3;
  }
  return out;
}

// Tokens of a text: by a tokenizer's files, else by the server where it has /tokenize as vLLM or TGI.
class TokenCounter {
 public:
  TokenCounter(const std::string& folder, const Url& url, const std::string& key) {
    if (!folder.empty())
      tokenizer_ = Tokenizer::load(folder);
    else
      client_ = std::make_unique<HttpClient>(url, key);
  }
  // Below 0 where nobody knows.
  int64_t count(const std::string& text) {
    if (tokenizer_) return static_cast<int64_t>(tokenizer_->encode(text, false).size());
    if (!client_) return -1;
    for (const char* field : {"prompt", "inputs"}) {
      Dict body;
      body.set(field, text);
      if (*field == 'p') body.set("add_special_tokens", false);
      const ClientReply reply = client_->post_json("/tokenize", Value(std::move(body)).dump_compact());
      if (reply.head.status != 200) continue;
      const Value answer = Value::parse_json(reply.body);
      if (answer.is_list()) return static_cast<int64_t>(answer.as_list().size());
      if (const Value* count = answer.find("count"); count != nullptr && count->is_int()) return count->as_int();
      if (const Value* tokens = answer.find("tokens"); tokens != nullptr && tokens->is_list())
        return static_cast<int64_t>(tokens->as_list().size());
    }
    client_.reset();
    return -1;
  }

 private:
  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<HttpClient> client_;
};

// The longest text of `make(words)` that has at most `tokens` tokens, in words; one word per token where nobody counts.
int64_t words_for(int64_t tokens, TokenCounter& counter, const std::function<std::string(int64_t)>& make) {
  if (counter.count(make(1)) < 0) return tokens;
  int64_t low = 1, high = tokens;  // no word is less than a token
  while (low < high) {
    const int64_t middle = (low + high + 1) / 2;
    if (counter.count(make(middle)) <= tokens)
      low = middle;
    else
      high = middle - 1;
  }
  return low;
}

// "0 1 2 ...", as MariTalk's benchmark asks.
std::string numbers(int64_t words) {
  std::string out;
  for (int64_t i = 0; i < words; ++i) out += (i == 0 ? "" : " ") + std::to_string(i);
  return out;
}

void choose_prompts(BenchServeOptions& options, TokenCounter& counter) {
  LoadOptions& load = options.load;
  if (!options.prompt.empty()) {
    load.prompts = {{options.prompt, ""}};
  } else if (!options.prompts.empty()) {
    const PromptFile file(options.prompts);
    for (int64_t i = 0; i < file.size(); ++i) {
      const Prompt prompt = file.read(i, {});
      if (!prompt.error.empty())
        throw Error(fmt::format("{}, line {}: {}", options.prompts, prompt.line, prompt.error));
      if (prompt.messages.is_list() && load.api != LoadApi::kChat)
        throw Error(fmt::format("{}, line {}: messages need --api chat", options.prompts, prompt.line));
      load.prompts.push_back({prompt.text, prompt.messages.is_list() ? prompt.messages.dump_compact() : ""});
    }
  } else if (options.maritalk()) {
    load.prompts = {{numbers(words_for(options.prompt_size > 0 ? options.prompt_size : 550, counter, numbers)), ""}};
  } else if (options.prompt_size > 0) {
    load.prompt_words = words_for(options.prompt_size, counter, [](int64_t n) { return synthetic_prompt(0, n); });
  }
}

// What the server did not count.
void count_rest(LoadReport& report, const LoadOptions& load, TokenCounter& counter) {
  if (load_framing(load.api) == LoadFraming::kWhole) report.tokens = 0;
  for (LoadRequest& r : report.all) {
    if (!r.error.empty()) continue;
    if (load_framing(load.api) == LoadFraming::kWhole) {
      std::string text = r.text;
      const std::string asked = load.prompts.size() == 1 ? load.prompts[0].text : "";
      if (load.api == LoadApi::kEnergon && !asked.empty() && text.starts_with(asked)) text.erase(0, asked.size());
      r.tokens = counter.count(text);
      if (r.tokens < 0)
        throw Error("this dialect counts no tokens, and the server has no /tokenize: give --tokenizer FOLDER");
      report.tokens += r.tokens;
    }
    if (r.prompt_tokens == 0 && load.prompts.size() == 1) {
      r.prompt_tokens = std::max<int64_t>(0, counter.count(load.prompts[0].text));
      report.prompt_tokens += r.prompt_tokens;
    }
  }
  report.tokens_per_second = static_cast<double>(report.tokens) / std::max(report.seconds, 1e-9);
}

// Adds one round's requests to those before it.
void append(LoadReport& sum, LoadReport&& next) {
  sum.started += next.started, sum.finished += next.finished, sum.failed += next.failed;
  sum.tokens += next.tokens, sum.prompt_tokens += next.prompt_tokens, sum.seconds += next.seconds;
  sum.health_failures += next.health_failures;
  for (const auto& [why, count] : next.errors) sum.errors[why] += count;
  for (LoadRequest& r : next.all) {
    r.serial += sum.started - next.started;
    sum.all.push_back(std::move(r));
  }
  std::vector<float> ttft, tpot, e2e;
  for (const LoadRequest& r : sum.all) {
    if (!r.error.empty()) continue;
    ttft.push_back(static_cast<float>(r.ttft)), e2e.push_back(static_cast<float>(r.e2e));
    if (r.tpot > 0) tpot.push_back(static_cast<float>(r.tpot));
  }
  sum.ttft = percentiles(ttft), sum.tpot = percentiles(tpot), sum.e2e = percentiles(e2e);
  sum.tokens_per_second = static_cast<double>(sum.tokens) / std::max(sum.seconds, 1e-9);
  sum.requests_per_second = static_cast<double>(sum.finished) / std::max(sum.seconds, 1e-9);
}

void set_goodput(BenchLevel& level, const LoadTargets& targets) {
  const auto good = std::count_if(level.report.all.begin(), level.report.all.end(),
                                  [&](const LoadRequest& r) { return targets.met(r); });
  level.goodput = static_cast<double>(good) / std::max(level.report.seconds, 1e-9);
}

int run(BenchServeOptions& options) {
  LoadOptions& load = options.load;
  load.api = parse_load_api(options.api);
  ServerFinder finder(options.url, options.key_file, options.via);
  const Url url = finder.find(load.key);
  load.url = url.text();
  if (load.model.empty() &&
      (load.api == LoadApi::kChat || load.api == LoadApi::kCompletions || load.api == LoadApi::kOllama)) {
    HttpClient client(url, load.key);
    load.model = first_model(client);
  }
  if (!options.plot.empty() && !options.plot.ends_with(".svg"))
    throw Error(fmt::format("--plot: expected a file that ends in .svg, found {}; other programs turn SVG into pixels",
                            options.plot));
  if (!options.rates.empty() && options.streams.size() > 1)
    throw Error("--concurrency: with --rate it is the most that run at once, one number for all rates");
  BenchResult result{load.url, options.api, load.model, load.max_tokens, read_targets(options.goodput), {}, {}};
  TokenCounter counter(options.tokenizer, url, load.key);
  choose_prompts(options, counter);
  std::vector<MaritalkRound> rounds;
  const size_t levels = options.rates.empty() ? options.streams.size() : options.rates.size();
  for (size_t i = 0; i < levels; ++i) {
    BenchLevel& level = result.levels.emplace_back();
    level.rate = load.rate = options.rates.empty() ? 0 : options.rates[i];
    level.streams = load.streams =
        options.rates.empty() ? options.streams[i] : std::max<int64_t>(1024, options.streams[0]);
    if (options.maritalk()) {
      load.requests = load.streams, load.seconds = 0;
      for (int64_t n = 0; n < options.repeats; ++n) {
        LoadReport round = run_load(load);
        count_rest(round, load, counter);
        rounds.push_back({level.streams, round.all});
        append(level.report, std::move(round));
      }
    } else {
      level.report = run_load(load);
      count_rest(level.report, load, counter);
    }
    load.first_serial += level.report.started;
    set_goodput(level, result.targets);
    if (!options.maritalk() && levels == 1) fmt::print("{}", level_text(level, result.targets));
  }
  if (options.maritalk()) {
    result.maritalk = maritalk_rows(rounds, std::min<int64_t>(100, load.max_tokens));
    fmt::print("{}\n", maritalk_table(result.maritalk));
  }
  if (options.maritalk() || levels > 1) fmt::print("{}", sweep_text(result));
  if (!options.json.empty()) replace_file(options.json, as_json_text(result));
  if (!options.csv.empty()) replace_file(options.csv, as_csv(result));
  if (!options.plot.empty()) replace_file(options.plot, as_svg(result));
  for (const BenchLevel& level : result.levels) {
    if (levels > 1 || options.maritalk())
      for (const auto& [why, count] : level.report.errors) fmt::print("failed {:>6}: {}\n", count, why);
    if (level.report.failed > 0 || level.report.finished == 0) return 1;
  }
  return 0;
}

}  // namespace

void add_bench_serve(CLI::App& bench, int& exit_code) {
  const auto [verb, options] =
      add_verb<BenchServeOptions>(bench, "serve", "Load a running server and report latencies.", exit_code, run);
  LoadOptions& load = options->load;
  verb->add_option("--url", options->url, "Server: http://HOST:PORT, a job id, or a service's name.")->required();
  verb->add_option("--key-file", options->key_file,
                   "The server's key; default: that of your own job there, else OPENAI_API_KEY.")
      ->check(CLI::ExistingFile);
  verb->add_option("--via", options->via, "Host to tunnel through with ssh to a job's node.");
  verb->add_option("--api", options->api, "Dialect to speak.")
      ->check(CLI::IsMember(load_api_names()))
      ->capture_default_str();
  verb->add_option("--model", load.model,
                   "Model to name in requests; default: the first at /v1/models, or Triton's ensemble.");
  verb->add_option("--concurrency,--streams", options->streams,
                   "Requests under way at once; several, by commas: one run each.")
      ->delimiter(',')
      ->check(CLI::Range(1, 60000))
      ->capture_default_str();
  CLI::Option* rate = verb->add_option("--rate", options->rates,
                                       "Arrivals per second, by chance (Poisson), instead; several: one run each.")
                          ->delimiter(',')
                          ->check(CLI::Range(1e-3, 1e5));
  verb->add_option("--seed", load.seed, "Of the arrivals.")->needs(rate)->capture_default_str();
  CLI::Option* requests =
      verb->add_option("--requests", load.requests, "Requests of a run; 0: until --seconds have passed.")
          ->check(CLI::NonNegativeNumber)
          ->capture_default_str();
  CLI::Option* seconds = verb->add_option("--seconds", load.seconds, "No request starts later than this; 0: no limit.")
                             ->check(CLI::NonNegativeNumber)
                             ->capture_default_str();
  CLI::Option* repeats =
      verb->add_option(
              "--n-repeats", options->repeats,
              "Rounds as MariTalk's benchmark: all requests of a level at once, so many times; prints its table.")
          ->check(CLI::Range(1, 100000))
          ->excludes(rate)
          ->excludes(requests)
          ->excludes(seconds);
  CLI::Option* size =
      verb->add_option("--prompt-size", options->prompt_size, "Length of the synthetic prompts in tokens.")
          ->check(CLI::Range(1, 1000000));
  CLI::Option* words = verb->add_option("--prompt-words", load.prompt_words, "Likewise in words.")
                           ->check(CLI::Range(0, 1000000))
                           ->capture_default_str();
  words->excludes(size)->excludes(repeats);
  CLI::Option* one =
      verb->add_option("--prompt", options->prompt, "Send this prompt instead.")->excludes(size)->excludes(words);
  verb->add_option("--prompts", options->prompts,
                   "Send the prompts of this file instead, in turn: as sluice generate reads them.")
      ->check(CLI::ExistingFile)
      ->excludes(one)
      ->excludes(size)
      ->excludes(words);
  verb->add_option("--tokenizer", options->tokenizer,
                   "Folder with a tokenizer that counts; default: the server's /tokenize.")
      ->check(CLI::ExistingDirectory);
  verb->add_option("--max-tokens", load.max_tokens, "Tokens asked for per request.")
      ->check(CLI::Range(1, 1 << 24))
      ->capture_default_str();
  verb->add_option("--goodput", options->goodput, "Count requests within targets: ttft:MS, tpot:MS, e2e:MS.")
      ->allow_extra_args(false);
  verb->add_flag_callback(
      "--no-health", [&load] { load.probe_health = false; }, "Do not probe /health meanwhile.");
  verb->add_option("--json", options->json, "File for the figures, times in seconds.")->check(folder_is_there);
  verb->add_option("--csv", options->csv, "File for a line per request.")->check(folder_is_there);
  verb->add_option("--plot", options->plot, "SVG file for throughput and latencies.")->check(folder_is_there);
}

}  // namespace sluice
