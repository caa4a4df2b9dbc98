// SPDX-License-Identifier: Apache-2.0
// sluice bench serve: streams against a running server, with latency percentiles.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>

#include "app/verbs.h"
#include "base/error.h"
#include "base/file.h"
#include "client/load.h"

namespace sluice {
namespace {

struct BenchServeOptions {
  LoadOptions load;
  std::string api = "chat", key_file, json;
};

nlohmann::ordered_json as_json(const Percentiles& p) {
  return {{"count", p.count}, {"mean", p.mean}, {"p50", p.p50}, {"p90", p.p90}, {"p99", p.p99}, {"max", p.max}};
}

void print(const char* name, const Percentiles& p) {
  if (p.count == 0) return;
  fmt::print("{:<9}{:>10.2f}{:>10.2f}{:>10.2f}{:>10.2f}{:>10.2f}\n", name, p.mean * 1e3, p.p50 * 1e3, p.p90 * 1e3,
             p.p99 * 1e3, p.max * 1e3);
}

std::string read_key(const std::string& path) {
  std::string key = path.empty() ? "" : read_file(path);
  while (!key.empty() && (key.back() == '\n' || key.back() == '\r')) key.pop_back();
  return key;
}

int run(BenchServeOptions& options) {
  options.load.api = parse_load_api(options.api);
  options.load.key = read_key(options.key_file);
  const LoadReport r = run_load(options.load);
  fmt::print("{} requests finished, {} failed, {} tokens in {:.2f} s\n", r.finished, r.failed, r.tokens, r.seconds);
  fmt::print("{:.1f} tokens/s, {:.2f} requests/s; every stream answered after {:.0f} ms\n", r.tokens_per_second,
             r.requests_per_second, r.answered_seconds * 1e3);
  fmt::print("{:<9}{:>10}{:>10}{:>10}{:>10}{:>10}\n", "ms", "mean", "p50", "p90", "p99", "max");
  print("connect", r.connect);
  print("ttft", r.ttft);
  print("itl", r.itl);
  print("tpot", r.tpot);
  print("e2e", r.e2e);
  print("health", r.health);
  if (r.health_failures > 0) fmt::print("health: {} of {} probes failed\n", r.health_failures, r.health.count);
  for (const auto& [reason, count] : r.errors) fmt::print("failed {:>6}: {}\n", count, reason);
  if (!options.json.empty()) {
    const nlohmann::ordered_json report = {{"url", options.load.url},
                                           {"api", options.api},
                                           {"streams", options.load.streams},
                                           {"max_tokens", options.load.max_tokens},
                                           {"started", r.started},
                                           {"finished", r.finished},
                                           {"failed", r.failed},
                                           {"errors", r.errors},
                                           {"tokens", r.tokens},
                                           {"seconds", r.seconds},
                                           {"tokens_per_s", r.tokens_per_second},
                                           {"requests_per_s", r.requests_per_second},
                                           {"answered_s", r.answered_seconds},
                                           {"connect_s", as_json(r.connect)},
                                           {"ttft_s", as_json(r.ttft)},
                                           {"itl_s", as_json(r.itl)},
                                           {"tpot_s", as_json(r.tpot)},
                                           {"e2e_s", as_json(r.e2e)},
                                           {"health_s", as_json(r.health)},
                                           {"health_failures", r.health_failures}};
    replace_file(options.json, report.dump(2) + "\n");
  }
  return r.failed > 0 || r.finished == 0 ? 1 : 0;
}

}  // namespace

void add_bench_serve(CLI::App& bench, int& exit_code) {
  auto options = std::make_shared<BenchServeOptions>();
  LoadOptions& load = options->load;
  CLI::App* verb = bench.add_subcommand("serve", "Load a running server with streams and report latencies.");
  verb->add_option("--url", load.url, "Server, http://HOST:PORT.")->required();
  verb->add_option("--key-file", options->key_file, "File that holds the server's key.")->check(CLI::ExistingFile);
  verb->add_option("--api", options->api, "Routes to use.")
      ->check(CLI::IsMember({"chat", "completions", "tgi"}))
      ->capture_default_str();
  verb->add_option("--concurrency,--streams", load.streams, "Requests under way at once.")
      ->check(CLI::Range(1, 60000))
      ->capture_default_str();
  verb->add_option("--requests", load.requests, "Requests in all; 0: until --seconds have passed.")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  verb->add_option("--seconds", load.seconds, "No request starts later than this; 0: no limit.")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  verb->add_option("--prompt-words", load.prompt_words, "Length of the synthetic prompts.")
      ->check(CLI::Range(0, 1000000))
      ->capture_default_str();
  verb->add_option("--prompt", load.prompt, "Send this prompt instead.");
  verb->add_option("--max-tokens", load.max_tokens, "Tokens asked for per request.")
      ->check(CLI::Range(1, 1 << 24))
      ->capture_default_str();
  verb->add_flag("!--no-health", load.probe_health, "Do not probe /health meanwhile.");
  verb->add_option("--json", options->json, "File for the figures, times in seconds.");
  verb->callback([options, &exit_code] { exit_code = run(*options); });
}

}  // namespace sluice
