// SPDX-License-Identifier: Apache-2.0
// sluice bench: decode and prefill of one rank beside the machine's own limits, measured in the same run.
// Bytes and FLOPs are counted as docs/performance.md says; a share is the median of ratios of neighbouring
// measurements.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <fstream>
#include <nlohmann/json.hpp>

#include "app/bench_limits.h"
#include "app/bench_steps.h"
#include "app/device.h"
#include "app/idle_options.h"
#include "app/options.h"
#include "app/verb.h"
#include "app/verbs.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "cluster/launch.h"

namespace sluice {
namespace {

constexpr int64_t kLongest = 4096;  // tokens of a sequence, where the model's context has as many
constexpr int64_t kFirstSteps = 3;  // of decode, before the clock runs

struct BenchOptions {
  Settings settings = make_settings({Topic::kModel, Topic::kRun});
  std::vector<int64_t> batches{1, 16}, prefills{512};
  int64_t context = 64;
  int repeats = 7;
  double seconds = 1.0;
  std::string json;
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  return n % 2 == 1 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

// Least seconds of a decode step of `batch` sequences at `context`: weights read once or multiplied once per sequence,
// whichever takes longer, and the cache read.
double least_seconds(const ModelInfo& model, int64_t batch, double context, double read_gbps, double product_gflops) {
  const double weights = static_cast<double>(model.read_bytes) / read_gbps;
  const double products =
      2 * static_cast<double>(batch) * static_cast<double>(model.linear_parameters) / product_gflops;
  const double cache = static_cast<double>(batch) * context * static_cast<double>(model.kv_bytes_per_token) / read_gbps;
  return (std::max(weights, products) + cache) * 1e-9;
}

nlohmann::ordered_json bench_decode(BenchSteps& steps, const Executor& executor, Backend& backend,
                                    ProductProbe& products, const ModelInfo& model, int64_t batch,
                                    const BenchOptions& options, double& best_read, double& best_rate) {
  const double rate = products.gflops();
  best_rate = std::max(best_rate, rate);
  steps.start(batch, options.context);
  steps.decode(kFirstSteps);
  steps.finish();
  std::vector<double> rates, gbps, shares, rooflines, host;
  for (int i = 0; i < options.repeats; ++i) {
    const double read = backend.probe_read_gbps(kProbeBytes);
    best_read = std::max(best_read, read);
    const double waited = executor.waited_seconds(), started = monotonic_seconds();
    double bytes = 0, least = 0;
    int64_t n = 0;
    do {
      steps.decode(1);
      least += least_seconds(model, batch, static_cast<double>(steps.context()), read, rate);
      bytes += static_cast<double>(model.read_bytes) +
               static_cast<double>(batch * steps.context()) * static_cast<double>(model.kv_bytes_per_token);
      ++n;
    } while (monotonic_seconds() - started < options.seconds && steps.context() + 1 < steps.max_context());
    steps.finish();
    const double elapsed = monotonic_seconds() - started;
    rates.push_back(static_cast<double>(n * batch) / elapsed);
    gbps.push_back(bytes / elapsed * 1e-9);
    shares.push_back(gbps.back() / read);
    rooflines.push_back(least / elapsed);
    host.push_back((elapsed - (executor.waited_seconds() - waited)) / static_cast<double>(n) * 1e6);
    if (steps.context() + n >= steps.max_context()) steps.start(batch, options.context);
  }
  nlohmann::ordered_json row = {{"batch", batch},       {"context", options.context}, {"tokens_per_s", median(rates)},
                                {"gbps", median(gbps)}, {"share", median(shares)},    {"roofline", median(rooflines)}};
  // Of a step, in microseconds: its preparation and launch, while the device has the step before.
  if (backend.asynchronous()) row["host_us"] = median(host);
  return row;
}

nlohmann::ordered_json bench_prefill(BenchSteps& steps, ProductProbe& products, const ModelInfo& model, int64_t tokens,
                                     const BenchOptions& options, double& best_rate) {
  // 2 P_layers n + 2 P_head + 2 L nh d n^2
  const double head = static_cast<double>(model.vocab) * static_cast<double>(model.d_model);
  const double layers = static_cast<double>(model.linear_parameters) - head;
  const double n = static_cast<double>(tokens);
  const double flops =
      2 * layers * n + 2 * head + 2 * static_cast<double>(model.n_layers * model.n_heads * model.head_dim) * n * n;
  steps.start(1, tokens);
  std::vector<double> rates, gflops, shares;
  for (int i = 0; i < options.repeats; ++i) {
    const double limit = products.gflops();
    best_rate = std::max(best_rate, limit);
    const double started = monotonic_seconds();
    steps.start(1, tokens);
    const double elapsed = monotonic_seconds() - started;
    rates.push_back(n / elapsed);
    gflops.push_back(flops / elapsed * 1e-9);
    shares.push_back(gflops.back() / limit);
  }
  return {{"tokens", tokens}, {"tokens_per_s", median(rates)}, {"gflops", median(gflops)}, {"share", median(shares)}};
}

int run(BenchOptions& options) {
  const Settings& settings = options.settings;
  check_settings(settings);
  set_log_level(parse_log_level(settings.text("log-level")));
  const Launch launch = read_launch(process_environment());
  if (launch.world != 1)
    throw Error(
        fmt::format("sluice bench measures one rank, and this launch has {}; start it with one task", launch.world));

  const RankDevice device = choose_rank_device(settings, launch);
  refuse_idle_options(settings, {.gpu = device.cuda});
  const auto backend = make_rank_backend(settings, device, 1);
  Groups groups = solo_groups();
  const double load_started = monotonic_seconds();
  ModelSource source = model_source(settings);
  source.load_threads = load_threads(settings, 1);
  const int64_t longest = std::min<int64_t>(read_model_info(source).max_positions, kLongest);
  const int64_t prefill = *std::max_element(options.prefills.begin(), options.prefills.end());
  if (prefill >= longest)
    throw Error(
        fmt::format("--prefill {}: expected fewer than the {} tokens that one sequence holds here", prefill, longest));
  if (options.context + kFirstSteps >= longest)
    throw Error(fmt::format("--context {}: expected fewer than {} tokens: one sequence holds {} here", options.context,
                            longest - kFirstSteps, longest));
  auto model = load_model(source, *backend, groups);
  backend->wait_copies(backend->mark_copies());
  const double load_seconds = monotonic_seconds() - load_started;
  const ModelInfo info = model->info();
  if (info.decoder_start >= 0)
    throw Error(
        fmt::format("sluice bench measures decoders, and {} has an encoder; measure it with sluice serve and "
                    "sluice bench serve",
                    info.name));

  ExecutorOptions run_options;
  run_options.max_seqs = *std::max_element(options.batches.begin(), options.batches.end());
  run_options.max_rows = std::max({prefill, options.context, settings.integer("max-batch-prefill-tokens")});
  run_options.block_size = settings.integer("block-size");
  run_options.max_context = longest;
  const int64_t cache_tokens =
      std::max(run_options.max_seqs * std::min<int64_t>(1024, run_options.max_context), run_options.max_context);
  run_options.cache_bytes = static_cast<size_t>(cache_tokens) * info.kv_bytes_per_token;
  const auto executor = make_model_executor(std::move(model), *backend, groups, run_options);
  BenchSteps steps(*executor, cache_tokens / run_options.max_seqs);

  nlohmann::ordered_json report;
  report["model"] = {{"name", info.name},
                     {"family", info.family},
                     {"dtype", info.dtype},
                     {"quantised", info.quantised},
                     {"parameters", info.parameters},
                     {"weight_bytes", info.weight_bytes},
                     {"read_bytes", info.read_bytes},
                     {"kv_bytes_per_token", info.kv_bytes_per_token}};
  report["backend"] = backend->describe();
  report["load_seconds"] = load_seconds;
  report["warm_seconds"] = executor->info().warm_seconds;
  double best_read = 0, best_rate = 0;
  report["decode"] = nlohmann::ordered_json::array();
  report["prefill"] = nlohmann::ordered_json::array();
  fmt::print(stderr, "{} ({}{}{}, {:.2f} GB), {}\n", info.name, info.dtype, info.quantised.empty() ? "" : ", products ",
             info.quantised, static_cast<double>(info.weight_bytes) * 1e-9, backend->describe());
  ProductProbe products(*backend, info);
  for (const int64_t batch : options.batches) {
    const auto row = bench_decode(steps, *executor, *backend, products, info, batch, options, best_read, best_rate);
    fmt::print(stderr,
               "decode   batch {:4}   {:9.1f} tokens/s   {:6.1f} GB/s    {:.2f} of the read bandwidth, {:.2f} of the "
               "roofline{}\n",
               batch, row["tokens_per_s"].get<double>(), row["gbps"].get<double>(), row["share"].get<double>(),
               row["roofline"].get<double>(),
               row.contains("host_us") ? fmt::format(", host {:.0f} us a step", row["host_us"].get<double>()) : "");
    report["decode"].push_back(row);
  }
  for (const int64_t tokens : options.prefills) {
    const auto row = bench_prefill(steps, products, info, tokens, options, best_rate);
    fmt::print(stderr, "prefill  {:5} tokens {:9.1f} tokens/s   {:6.0f} GFLOP/s {:.2f} of the product rate\n", tokens,
               row["tokens_per_s"].get<double>(), row["gflops"].get<double>(), row["share"].get<double>());
    report["prefill"].push_back(row);
  }
  report["limits"] = {{"read_gbps", best_read}, {products.name() + "_gflops", best_rate}};
  fmt::print(stderr, "limits   read {:.1f} GB/s, {} products {:.0f} GFLOP/s\n", best_read, products.name(), best_rate);
  if (options.json.empty()) return 0;
  std::ofstream out(options.json);
  out << report.dump(2) << "\n";
  if (!out.flush()) throw Error(fmt::format("cannot write {}", options.json));
  return 0;
}

}  // namespace

void add_bench(CLI::App& app, int& exit_code) {
  auto options = std::make_shared<BenchOptions>();
  CLI::App* verb = app.add_subcommand("bench", "Measure decode and prefill of one rank beside the machine's limits.");
  verb->require_subcommand(0, 1);
  add_flags(*verb, options->settings,
            {"tokenizer", "chat-template", "tp", "pp", "tp-across-hosts", "all-reduce", "comm", "rendezvous",
             "formation-timeout", "experts", "max-batch-size", "max-batch-total-tokens", "max-total-tokens",
             "prefix-cache", "seed"});
  verb->add_option("--batch", options->batches, "Batch sizes of decode.")
      ->delimiter(',')
      ->check(CLI::Range(1, 1 << 16))
      ->capture_default_str();
  verb->add_option("--prefill", options->prefills, "Prompt lengths of prefill, in tokens.")
      ->delimiter(',')
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  verb->add_option("--context", options->context, "Tokens already cached when decode starts.")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  verb->add_option("--repeats", options->repeats, "Pairs of limit and measurement; the median is reported.")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  verb->add_option("--seconds", options->seconds, "Length of one decode measurement.")
      ->check(CLI::Range(0.01, 3600.0))
      ->capture_default_str();
  verb->add_option("--json", options->json, "File for the figures.")->check(folder_is_there);
  add_bench_serve(*verb, exit_code);
  add_bench_quality(*verb, exit_code);
  verb->callback([verb, options, &exit_code] {
    if (verb->get_subcommands().empty()) exit_code = run(*options);
  });
}

}  // namespace sluice
