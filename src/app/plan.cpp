// SPDX-License-Identifier: Apache-2.0
// sluice plan MODEL: from config.json alone, on which GPUs the model fits, and the line that submits it.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <nlohmann/json.hpp>

#include "app/idle_options.h"
#include "app/plan_request.h"
#include "app/progress.h"
#include "app/verb.h"
#include "app/verbs.h"
#include "base/error.h"
#include "base/terminal.h"
#include "launch/plan.h"

namespace sluice {
namespace {

struct PlanOptions {
  std::string model, revision, dtype = "auto", quantize;
  std::vector<std::string> gpus;
  int64_t context = 0, sequences = 1, tp = 0, pp = 0, gpus_per_node = 4;
  double utilization = 0.9;
  bool json = false;
};

nlohmann::json fit_json(const Fit& fit) {
  return {{"gpu", fit.gpu.name},
          {"gpus", fit.ranks()},
          {"tp", fit.tp},
          {"pp", fit.pp},
          {"weights_gib", fit.weights_gib},
          {"fixed_gib", fit.fixed_gib},
          {"room_gib", fit.room_gib},
          {"cache_tokens", fit.cache_tokens},
          {"tokens_per_s_limit", fit.tokens_per_s}};
}

int run(PlanOptions& options) {
  if (!options.revision.empty() && !is_downloaded(options.model)) refuse_revision(options.revision, options.model);
  const ModelQuery query{options.model, options.revision, options.dtype, options.quantize};
  if (const auto layout = packed_layout(query)) {
    layout->require_device(true);
    layout->require_stored(options.dtype, options.quantize, "auto");
    if (options.tp == 0 && options.pp == 0) options.tp = layout->tp, options.pp = layout->pp;
    layout->require_ranks(static_cast<int>(std::max<int64_t>(options.tp, 1)),
                          static_cast<int>(std::max<int64_t>(options.pp, 1)));
  }
  PlanRequest request = plan_request(query, options.context);
  const ModelInfo& m = request.model;
  request.sequences = options.sequences;
  request.utilization = options.utilization;
  request.gpus_per_node = static_cast<int>(options.gpus_per_node);
  std::vector<GpuType> types;
  for (const std::string& name : options.gpus) types.push_back(find_gpu(name));
  if (types.empty()) types = gpu_types();
  if ((options.tp > 0) != (options.pp > 0)) (options.tp > 0 ? options.pp : options.tp) = 1;

  const double gib = static_cast<double>(m.parameters) * request.bytes_per_weight / (1024.0 * 1024 * 1024);
  const double token = 2.0 * static_cast<double>(m.n_layers * m.n_kv_heads * m.head_dim) * request.bytes_per_cache;
  nlohmann::json out = {{"model", options.model},
                        {"family", m.family},
                        {"parameters", m.parameters},
                        {"weights_gib", gib},
                        {"cache_bytes_per_token", token},
                        {"context", request.context},
                        {"sequences", request.sequences},
                        {"fits", nlohmann::json::array()},
                        {"does_not_fit", nlohmann::json::array()}};
  const size_t columns = terminal_columns(STDOUT_FILENO);
  const auto say = [&](const std::string& text) { fmt::print("{}\n", wrapped(text, 0, columns)); };
  Table table("lrrrrrrr", {5, 7, 4, 3, 2});
  if (!options.json) {
    say(fmt::format("{}: {}, {} parameters, {:.1f} GiB as {}; cache {} per token", options.model, m.family,
                    m.parameters >= 1'000'000'000
                        ? fmt::format("{:.2f} billion", static_cast<double>(m.parameters) * 1e-9)
                        : fmt::format("{:.3g} million", static_cast<double>(m.parameters) * 1e-6),
                    gib, options.quantize.empty() ? m.dtype : options.quantize, format_bytes(token)));
    say(fmt::format(
        "for {} sequence{} of {} tokens, {:.0f} % of each GPU's memory; weights and room in GiB of one GPU:\n",
        request.sequences, request.sequences == 1 ? "" : "s", request.context, 100 * request.utilization));
    table.add({"GPU", "GPUs", "tp", "pp", "weights", "room", "cache tokens", "tokens/s at most"});
  }
  std::optional<Fit> best;
  std::vector<std::string> misfits, old;
  for (const GpuType& type : types) {
    std::optional<Fit> fit;
    if (options.tp > 0) {
      fit = layout_fit(request, type, static_cast<int>(options.tp), static_cast<int>(options.pp));
      if (fit->room_gib < 0) {
        misfits.push_back(fmt::format("{} ({:.1f} GiB of weights and {:.1f} of {:.1f} used otherwise)", type.name,
                                      fit->weights_gib, fit->fixed_gib, type.memory_gib * request.utilization));
        fit.reset();
      }
    } else {
      fit = smallest_fit(request, type);
      if (!fit) (type.supported ? misfits : old).push_back(type.name);
    }
    if (!fit) {
      out["does_not_fit"].push_back(type.name);
      continue;
    }
    out["fits"].push_back(fit_json(*fit));
    out["fits"].back()["submit"] = submit_line(request, *fit, options.model);
    if (!best || fit->ranks() < best->ranks()) best = fit;
    if (options.json) continue;
    table.add({type.name, std::to_string(fit->ranks()), std::to_string(fit->tp), std::to_string(fit->pp),
               fmt::format("{:.1f}", fit->weights_gib), fmt::format("{:.1f}", fit->room_gib),
               std::to_string(fit->cache_tokens),
               fit->tokens_per_s > 0 ? fmt::format("{:.0f}", fit->tokens_per_s) : "-"});
  }
  if (options.json) {
    fmt::print("{}\n", out.dump(1));
  } else {
    fmt::print("{}", table.text(STDOUT_FILENO));
    if (!misfits.empty()) say(fmt::format("\ndoes not fit: {}", fmt::join(misfits, ", ")));
    if (!old.empty()) say(fmt::format("\ntoo old, compute capability 8.0 is needed: {}", fmt::join(old, ", ")));
    if (best) fmt::print("\n{}\n", submit_line(request, *best, options.model));
  }
  if (!best) {
    throw Error(fmt::format(
        "{} fits on none of these; try --quantize int8 or int4, a shorter --context, or larger GPUs", options.model));
  }
  return 0;
}

}  // namespace

void add_plan(CLI::App& app, int& exit_code) {
  const auto [verb, options] = add_verb<PlanOptions>(
      app, "plan", "From config.json alone: which GPUs a model needs, and the line that submits it.", exit_code, run);
  verb->add_option("MODEL", options->model,
                   "Folder, config.json, downloaded model (ORG/NAME) or named shape [MODEL_ID].")
      ->envname("MODEL_ID")
      ->required();
  verb->add_option("--revision", options->revision, "Branch, tag or commit of a downloaded model.");
  verb->add_option("--gpus", options->gpus,
                   "Kinds to consider: a100:40, a100:80/3g.40gb, h100, NAME:GIB; default: all known.");
  verb->add_option("--dtype", options->dtype, "float32, bfloat16, float16 or auto.")->capture_default_str();
  verb->add_option("--quantize", options->quantize, "int8, int4, gptq, awq or fp8.");
  verb->add_option("--context", options->context, "Tokens of one sequence; default: the model's, at most 4096.")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 30));
  verb->add_option("--sequences", options->sequences, "Sequences that must fit at once.")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  verb->add_option("--tp", options->tp, "Only this number of tensor-parallel ranks.")->check(CLI::Range(1, 64));
  verb->add_option("--pp", options->pp, "Only this number of pipeline stages.")->check(CLI::Range(1, 64));
  verb->add_option("--gpus-per-node", options->gpus_per_node, "GPUs of a node.")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  verb->add_option("--gpu-memory-utilization", options->utilization, "Share of a GPU's memory to use.")
      ->check(CLI::Range(0.1, 1.0))
      ->capture_default_str();
  verb->add_flag("--json", options->json, "Machine-readable.");
}

}  // namespace sluice
