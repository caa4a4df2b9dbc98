// SPDX-License-Identifier: Apache-2.0
// sluice generate: offline generation over a prompt file.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <csignal>

#include "app/options.h"
#include "app/verbs.h"
#include "app/world.h"
#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "batch/run.h"
#include "cluster/signals.h"

namespace sluice {
namespace {

struct GenerateOptions {
  Settings settings = make_settings({Topic::kModel, Topic::kRun, Topic::kSampling});
  std::string prompts, output;
};

int lead(const Settings& settings, const BatchOptions& batch, const ServedModel& model, World& world) {
  std::atomic<bool> stop{false};
  SignalWatch watch([&](int signal, int) {
    if (!stop.exchange(true))
      log_warning(
          fmt::format("{}: stopping; finished answers stay in {}.journal", signal_name(signal), batch.output.string()));
  });
  EngineOptions engine_options;
  engine_options.max_waiting = batch.window;
  engine_options.token_budget = settings.integer("max-batch-prefill-tokens", 1, 1 << 20);
  engine_options.max_batch = settings.integer("max-batch-size", 1, 1 << 16);
  engine_options.prefix_cache = settings.flag("prefix-cache");
  engine_options.job_seed = batch.seed;
  engine_options.broadcast = world.broadcast();
  BatchReport report;
  {
    Engine engine(
        engine_options, [&world] { return world.make_executor(); }, *model.tokenizer);
    world.all_loaded();
    report = run_batch(batch, engine, model.chat.get(), stop);
    engine.drain(0);
  }
  world.leave();
  if (!report.complete) {
    log_warning(
        fmt::format("{} of {} prompts are answered; run the same command again to go on", report.done, report.prompts));
    return kExitAgain;
  }
  log_info(fmt::format("{}: {} answers ({} resumed, {} with an error), {} generated tokens in {:.1f} s",
                       batch.output.string(), report.prompts, report.resumed, report.errors, report.generated_tokens,
                       report.seconds));
  return 0;
}

int run(GenerateOptions& options) {
  Settings& settings = options.settings;
  set_log_level(parse_log_level(settings.text("log-level")));
  check_unsupported(settings);
  BatchOptions batch;
  batch.prompts = options.prompts;
  batch.output = options.output;
  batch.defaults = default_request(settings);
  batch.seed = settings.has("seed") ? static_cast<uint64_t>(settings.integer("seed", 0, INT64_MAX)) : 0;
  if (batch_is_complete(batch)) {
    log_info(fmt::format("{} is complete already; nothing to do", options.output));
    return 0;
  }
  const ServedModel model = read_served_model(settings);
  batch.window = 2 * settings.integer("max-batch-size", 1, 1 << 16);
  const std::string& quantise = model.source.quantize;
  batch.fingerprint = fmt::format(
      "model={} dtype={}{} seed={} max-new-tokens={} temperature={} top-k={} top-p={} repetition-penalty={}",
      model.name, settings.text("dtype"), quantise.empty() ? "" : " quantize=" + quantise, batch.seed,
      settings.text("max-new-tokens"), settings.text("temperature"), settings.text("top-k"), settings.text("top-p"),
      settings.text("repetition-penalty"));
  World world(settings, model, [](const std::string&) {});
  return with_world(world, [&] { return world.leader() ? lead(settings, batch, model, world) : world.work(); });
}

}  // namespace

void add_generate(CLI::App& app, int& exit_code) {
  auto options = std::make_shared<GenerateOptions>();
  CLI::App* verb =
      app.add_subcommand("generate", "Answer every prompt of a file; run again after any kill to complete it.");
  verb->add_option("--prompts", options->prompts,
                   "Prompts: JSON lines (prompt or messages, parameters) or plain text [PROMPTS].")
      ->envname("PROMPTS")
      ->required();
  verb->add_option("--output", options->output, "Answers: one JSON line per prompt, in order [OUTPUT].")
      ->envname("OUTPUT")
      ->required();
  add_flags(*verb, options->settings);
  verb->callback([options, &exit_code] { exit_code = run(*options); });
}

}  // namespace sluice
