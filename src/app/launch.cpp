// SPDX-License-Identifier: Apache-2.0
// sluice launch MODEL: a job script from the site's file and the plan, submitted and followed until the server is
// ready.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <ctime>
#include <nlohmann/json.hpp>

#include "app/follow_job.h"
#include "app/idle_options.h"
#include "app/options.h"
#include "app/plan_request.h"
#include "app/verb.h"
#include "app/verbs.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/module.h"
#include "cluster/endpoint.h"
#include "launch/chain.h"
#include "launch/jobs.h"
#include "launch/script.h"
#include "launch/shape.h"
#include "launch/submit.h"

namespace sluice {
namespace fs = std::filesystem;
namespace {

struct LaunchOptions {
  Settings settings = make_settings({Topic::kModel, Topic::kRun, Topic::kServer});
  std::string model, site, gpu, memory, time, partition, account, name, log, output_script;
  std::string until, lead, overlap;
  std::vector<std::string> extra;
  int nodes = 0, ranks = 0, gpus = 0, cpus = 0, most_jobs = 0;
  int64_t sequences = 0;
  bool keep_alive = false, cpu = false, dry_run = false, no_wait = false, json = false;
};

constexpr int kMostMinutesOfNotice = 5, kMostJobs = 50;

// Variables that decide where models and records are; the job must see what this shell sees.
constexpr const char* kPlaces[] = {"SLUICE_HOME",       "HF_HUB_CACHE",      "HF_HOME",          "TGI_DIR",
                                   "XDG_CACHE_HOME",    "MODEL_PATH",        "SITE_MODULES",     "SITE_MPI",
                                   "SITE_SRUN_OPTIONS", "SITE_INTERFACE",    "SITE_SCRATCH",     "SLUICE_CUDA_MODULE",
                                   "CONTAINER_IMAGE",   "CONTAINER_RUNTIME", "CONTAINER_MOUNTS", "CONTAINER_BINARY"};

bool has_cuda_module() {
  std::error_code error;
  const auto paths = module_paths("sluice_cuda.so", "SLUICE_CUDA_MODULE");
  return std::any_of(paths.begin(), paths.end(), [&](const fs::path& path) { return fs::exists(path, error); });
}

int layout_value(const Settings& settings, const char* name) {
  return settings.has(name) ? static_cast<int>(settings.integer(name)) : 0;
}

// tp and pp as given; with one of them and a number of GPUs the other follows.
std::pair<int, int> layout_of(const LaunchOptions& options, int per_node) {
  int tp = layout_value(options.settings, "tp"), pp = layout_value(options.settings, "pp");
  const int ranks = options.gpus > 0 ? options.gpus : options.ranks;
  if (ranks > 0) {
    if (tp == 0 && pp == 0) {
      tp = std::min(ranks, per_node);
      if (ranks % tp != 0)
        throw Error(fmt::format("{} GPUs do not divide over nodes of {}; expected a multiple, or --tp and --pp", ranks,
                                per_node));
    }
    if (tp == 0) tp = ranks / pp;
    if (pp == 0) pp = ranks / tp;
    if (tp * pp != ranks)
      throw Error(fmt::format("tp {} x pp {} is {} ranks; {} were asked for", tp, pp, tp * pp, ranks));
  }
  if ((tp > 0) != (pp > 0)) (tp > 0 ? pp : tp) = 1;
  return {tp, pp};
}

JobShape shape_for_gpus(const LaunchOptions& options, PlanRequest& request) {
  std::optional<std::vector<GpuOffer>> offers = read_gpu_offers(run_command, options.partition);
  int per_node = 0;
  for (const GpuOffer& offer : offers.value_or(std::vector<GpuOffer>()))
    if (options.gpu.empty() || offer.type.empty() || offer.type == options.gpu)
      per_node = std::max(per_node, offer.per_node);
  if (per_node == 0) per_node = 4;
  if (options.nodes > 0 && options.gpus > 0) per_node = (options.gpus + options.nodes - 1) / options.nodes;
  const auto [tp, pp] = layout_of(options, per_node);
  if (options.gpu.empty()) {
    if (!offers)
      throw Error(
          "sinfo does not answer, so which GPUs there are is not known; name their kind with --gpu, or take --cpu");
    return best_offer(request, *offers, tp, pp);
  }
  GpuType gpu = find_gpu(options.gpu);
  // The name to ask by: the cluster's own where it lists this kind; none where its GPUs have no type.
  if (offers) {
    const auto same = [&](const GpuOffer& offer) {
      try {
        return offer.type == options.gpu || (!offer.type.empty() && find_gpu(offer.type).name == gpu.name);
      } catch (const Error&) {
        return false;
      }
    };
    const auto found = std::find_if(offers->begin(), offers->end(), same);
    if (found != offers->end()) {
      gpu.gres = found->type, per_node = found->per_node;
    } else if (!offers->empty() &&
               std::all_of(offers->begin(), offers->end(), [](const GpuOffer& o) { return o.type.empty(); })) {
      gpu.gres.clear();
    }
  }
  request.gpus_per_node = per_node;
  const std::optional<Fit> fit = tp > 0 ? std::optional(layout_fit(request, gpu, tp, pp)) : smallest_fit(request, gpu);
  if (!fit || fit->room_gib < 0) {
    throw Error(fmt::format("{} does not fit {}{} with {} tokens; `sluice plan {}` shows what does", options.model,
                            gpu.name, tp > 0 ? fmt::format(" at tp {} pp {}", tp, pp) : "", request.context,
                            options.model));
  }
  return gpu_shape(request, *fit);
}

JobShape shape_of(LaunchOptions& options, PlanRequest& request) {
  Settings& settings = options.settings;
  const std::string& device = settings.text("device");
  bool cpu = options.cpu || device == "cpu";
  if (cpu && (options.gpus > 0 || !options.gpu.empty() || device == "cuda"))
    throw Error("--cpu and a request for GPUs exclude each other");
  if (!cpu && !has_cuda_module()) {
    if (options.gpus > 0 || !options.gpu.empty() || device == "cuda")
      throw Error("this program has no CUDA module (sluice_cuda.so) beside it; build the cuda preset, or take --cpu");
    log_info("this program has no CUDA module, so the job asks for CPUs alone");
    cpu = true;
  }
  const auto packed =
      packed_layout({options.model, settings.text("revision"), settings.text("dtype"), quantize_setting(settings)});
  if (packed) {
    packed->require_device(!cpu);
    if (!settings.has("tp")) settings.set("tp", std::to_string(packed->tp), "packed.json");
    if (!settings.has("pp")) settings.set("pp", std::to_string(packed->pp), "packed.json");
    packed->require_ranks(layout_value(settings, "tp"), layout_value(settings, "pp"));
  }
  JobShape shape;
  if (cpu) {
    const int nodes = std::max(1, options.nodes);
    const auto [tp, pp] = layout_of(options, 1 << 20);
    request.sequences = options.sequences > 0 ? options.sequences : 16;
    shape = cpu_shape(request, nodes, options.ranks > 0 ? options.ranks : std::max(nodes, tp * pp));
    if (layout_value(settings, "tp") > 0 || layout_value(settings, "pp") > 0) shape.tp = tp, shape.pp = pp;
    shape.context = request.context;
    settings.set("device", "cpu", "plan");
    if (!settings.has("max-batch-total-tokens"))
      settings.set("max-batch-total-tokens", std::to_string(request.context * request.sequences), "plan");
  } else {
    request.sequences = std::max<int64_t>(1, options.sequences);
    shape = shape_for_gpus(options, request);
    if (options.nodes > 0 && shape.nodes != options.nodes) {
      if (shape.ranks() % options.nodes != 0)
        throw Error(fmt::format("{} ranks do not divide over --nodes {}", shape.ranks(), options.nodes));
      shape.ranks_per_node = shape.gpus_per_node = shape.ranks() / options.nodes;
      shape.nodes = options.nodes;
    }
  }
  if (options.cpus > 0) shape.cpus = options.cpus;
  if (!options.memory.empty()) shape.memory_mb = 0;
  if (shape.tp > 0) settings.set("tp", std::to_string(shape.tp), "plan");
  if (shape.pp > 0) settings.set("pp", std::to_string(shape.pp), "plan");
  if (!settings.has("max-total-tokens")) settings.set("max-total-tokens", std::to_string(shape.context), "plan");
  return shape;
}

// A service's name is a file's and stands for a job's id in other verbs.
void check_name(const std::string& name) {
  const bool plain =
      std::ranges::all_of(name, [](unsigned char c) { return std::isalnum(c) || c == '.' || c == '-' || c == '_'; });
  if (!plain || !std::isalpha(static_cast<unsigned char>(name[0])) || name.starts_with("local-"))
    throw Error(fmt::format("--name '{}': expected letters, digits, dots, - and _, beginning with a letter", name));
}

std::string plain_name(std::string name) {
  while (name.ends_with('/')) name.pop_back();
  name = fs::path(name).filename().string();
  for (char& c : name)
    if (!std::isalnum(static_cast<unsigned char>(c)) && c != '.' && c != '-') c = '-';
  return name.empty() ? "server" : name;
}

std::vector<std::string> sbatch_options(const LaunchOptions& options, const JobShape& shape, const fs::path& log) {
  std::vector<std::string> out = {"--job-name=sluice-" + options.name, "--output=" + log.string(), "--open-mode=append",
                                  "--requeue"};
  // Slurm warns up to a minute early: a short job must not be told to leave at its start.
  int notice = kMostMinutesOfNotice * 60;
  if (!options.time.empty()) {
    const auto seconds = parse_time_limit(options.time);
    if (!seconds || *seconds < 60)
      throw Error(
          fmt::format("--time '{}': expected minutes, HH:MM:SS or D-HH:MM:SS, at least one minute", options.time));
    notice = static_cast<int>(std::clamp<int64_t>(*seconds / 6, 15, notice));
    out.push_back("--time=" + options.time);
  }
  out.push_back(fmt::format("--signal=B:TERM@{}", notice));
  if (!options.partition.empty()) out.push_back("--partition=" + options.partition);
  if (!options.account.empty()) out.push_back("--account=" + options.account);
  for (const std::string& option : shape_options(shape)) out.push_back(option);
  if (!options.memory.empty()) out.push_back("--mem=" + options.memory);
  out.insert(out.end(), options.extra.begin(), options.extra.end());
  return out;
}

// The options behind --; those that this verb has too decide the notice, the GPUs to be had and where the log is.
void take_sbatch_words(LaunchOptions& options) {
  struct Own {
    const char *word, *letter;
    std::string& value;
  };
  const Own own[] = {{"--time=", "-t", options.time},
                     {"--partition=", "-p", options.partition},
                     {"--account=", "-A", options.account},
                     {"--output=", "-o", options.log},
                     {"--mem=", "--mem=", options.memory}};
  if (options.model.starts_with('-')) {
    options.extra.insert(options.extra.begin(), options.model);
    options.model.clear();
  }
  std::vector<std::string> rest;
  for (const std::string& word : sbatch_words(options.extra)) {
    const auto mine = std::find_if(std::begin(own), std::end(own), [&](const Own& o) {
      return word.starts_with(o.word) || word.starts_with(o.letter);
    });
    if (mine == std::end(own)) {
      rest.push_back(word);
    } else {
      mine->value = word.substr(std::string_view(word.starts_with(mine->word) ? mine->word : mine->letter).size());
    }
  }
  options.extra = std::move(rest);
}

int64_t duration(const char* flag, const std::string& text) {
  const auto seconds = parse_time_limit(text);
  if (!seconds) throw Error(fmt::format("{} '{}': expected minutes, HH:MM:SS or D-HH:MM:SS", flag, text));
  return *seconds;
}

// "2026-12-24T18:00", or a duration from now.
int64_t moment(const char* flag, const std::string& text) {
  tm parts{};
  for (const char* form : {"%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%d"}) {
    parts = {};
    parts.tm_isdst = -1;
    const char* end = ::strptime(text.c_str(), form, &parts);
    if (end != nullptr && *end == '\0') {
      const int64_t at = ::mktime(&parts);
      if (static_cast<double>(at) <= wall_seconds()) throw Error(fmt::format("{} '{}' has passed", flag, text));
      return at;
    }
  }
  const auto seconds = parse_time_limit(text);
  if (!seconds)
    throw Error(fmt::format(
        "{} '{}': expected a moment (2026-12-24T18:00), or minutes, HH:MM:SS or D-HH:MM:SS from now", flag, text));
  return static_cast<int64_t>(wall_seconds()) + *seconds;
}

// What the keeper beside the server reads (launch/chain.h).
std::vector<std::pair<std::string, std::string>> keep_variables(const LaunchOptions& options) {
  std::vector<std::pair<std::string, std::string>> out = {{"SLUICE_SERVICE", options.name}};
  if (!options.keep_alive) return out;
  out.emplace_back("SLUICE_KEEP_ALIVE", "1");
  out.emplace_back("SLUICE_KEEP_JOBS", std::to_string(options.most_jobs > 0 ? options.most_jobs : kMostJobs));
  if (!options.until.empty())
    out.emplace_back("SLUICE_KEEP_UNTIL", std::to_string(moment("--keep-alive-until", options.until)));
  if (!options.lead.empty())
    out.emplace_back("SLUICE_KEEP_LEAD", std::to_string(duration("--keep-alive-lead", options.lead)));
  if (!options.overlap.empty())
    out.emplace_back("SLUICE_KEEP_OVERLAP", std::to_string(duration("--keep-alive-overlap", options.overlap)));
  return out;
}

// Two services of one name would take each other's clients.
void refuse_double(const std::string& name) {
  const Chain chain(sluice_home(process_environment()), name);
  const std::vector<std::string> jobs = chain.jobs();
  if (jobs.empty()) return;
  for (const QueueRow& row : read_queue(run_command).value_or(std::vector<QueueRow>())) {
    if (std::find(jobs.begin(), jobs.end(), row.id) != jobs.end())
      throw Error(fmt::format("service {} has job {} already ({}); give another --name, or first: sluice stop {}", name,
                              row.id, row.state, name));
  }
}

// Every setting that is not a default, under the name that wins over whatever else the job's environment holds.
std::vector<std::pair<std::string, std::string>> variables_of(const LaunchOptions& options) {
  std::vector<std::pair<std::string, std::string>> out;
  for (const Setting& setting : options.settings.table()) {
    const SettingValue& value = options.settings.at(setting.name);
    if (value.origin != "default" && !value.value.empty()) out.emplace_back(setting.variables.front(), value.value);
  }
  for (const char* name : kPlaces) {
    const char* value = process_environment()(name);
    if (value != nullptr && *value != '\0') out.emplace_back(name, value);
  }
  return out;
}

int run(LaunchOptions& options) {
  Settings& settings = options.settings;
  check_settings(settings);
  take_sbatch_words(options);
  if (!options.model.empty()) {
    if (is_typed(settings, "random-init"))
      throw Error(fmt::format("--random-init {} and the model {} exclude each other", settings.text("random-init"),
                              options.model));
    set_model(settings, options.model);
    settings.set("random-init", "", "default");
  }
  if (options.model.empty()) options.model = settings.text(settings.has("model") ? "model" : "random-init");
  if (options.model.empty())
    throw Error("no model: sluice launch MODEL, a folder or a downloaded model's name (ORG/NAME)");
  if (is_typed(settings, "revision") && !is_downloaded(options.model))
    refuse_revision(settings.text("revision"), options.model);
  PlanRequest request =
      plan_request({options.model, settings.text("revision"), settings.text("dtype"), quantize_setting(settings)},
                   settings.has("max-total-tokens") ? settings.integer("max-total-tokens") : 0);
  std::error_code error;
  const bool folder = fs::is_directory(options.model, error);
  const std::vector<std::string> shapes = random_shapes();
  if (!folder && std::find(shapes.begin(), shapes.end(), options.model) != shapes.end()) {
    settings.set("random-init", options.model, "MODEL");
    settings.set("model", "", "default");
  } else {
    settings.set("model", folder ? fs::canonical(options.model).string() : options.model, "MODEL");
  }
  const bool service = options.keep_alive || !options.name.empty();
  if (!options.name.empty()) check_name(options.name);
  if (!options.keep_alive &&
      (!options.until.empty() || options.most_jobs > 0 || !options.lead.empty() || !options.overlap.empty()))
    throw Error("--keep-alive-until, -jobs, -lead and -overlap belong to --keep-alive");
  if (options.name.empty()) options.name = plain_name(options.model);
  const JobShape shape = shape_of(options, request);
  refuse_idle_options(settings, {.encoder = request.model.decoder_start >= 0, .gpu = shape.gpus_per_node > 0});
  const char* site = process_environment()("SLUICE_SITE");
  const char* release = process_environment()("RELEASE_DIR");
  const char* image = process_environment()("CONTAINER_IMAGE");
  ScriptRequest script;
  script.container = image != nullptr && *image != '\0';
  if (service && script.container)
    throw Error("a service (--name, --keep-alive) runs on the node itself; unset CONTAINER_IMAGE, or leave those out");
  script.program = fs::canonical("/proc/self/exe");
  script.tree = read_job_tree(script.program, release == nullptr ? "" : release,
                              !options.site.empty() ? options.site
                              : site == nullptr     ? ""
                                                    : site);
  const fs::path log = fs::absolute(options.log.empty() ? fmt::format("sluice-{}-%j.log", options.name) : options.log);
  if (const fs::path folder = log.parent_path();
      folder.string().find('%') == std::string::npos && !fs::is_directory(folder, error))
    throw Error(fmt::format("--log {}: there is no folder {}, and Slurm makes none", options.log, folder.string()));
  script.title = fmt::format(
      "Serves {} with {} rank{} on {} {}{}, written by sluice {}.", options.model, shape.ranks(),
      shape.ranks() == 1 ? "" : "s", shape.nodes, shape.nodes == 1 ? "node" : "nodes",
      shape.gpus_per_node > 0 ? fmt::format(" of {} {} GPUs", shape.gpus_per_node, shape.gres) : "", SLUICE_VERSION);
  script.options = sbatch_options(options, shape, log);
  script.variables = variables_of(options);
  if (service) {
    for (auto& variable : keep_variables(options)) script.variables.push_back(std::move(variable));
    if (!options.dry_run) refuse_double(options.name);
  }
  const std::string text = render_script(script);
  if (!options.output_script.empty()) {
    replace_file(fs::absolute(options.output_script), text, 0755);
    log_info(fmt::format("the job script is in {}", options.output_script));
  }
  if (options.dry_run) {
    if (options.json) {
      fmt::print("{}\n",
                 nlohmann::json{{"options", script.options}, {"site", script.tree.site}, {"script", text}}.dump(1));
    } else if (options.output_script.empty()) {
      std::fwrite(text.data(), 1, text.size(), stdout);
    }
    return 0;
  }
  // sbatch reads the file at once; this one then has no use.
  const fs::path file = fs::temp_directory_path() / fmt::format("sluice-launch-{}.sh", ::getpid());
  replace_file(file, text, 0600);
  std::string job;
  try {
    job = submit_script(run_command, file.string(), {});
  } catch (const Error&) {
    fs::remove(file, error);
    throw;
  }
  fs::remove(file, error);
  std::string log_path = log.string();
  for (const auto& [mark, value] : {std::pair<std::string, std::string>{"%j", job}, {"%x", "sluice-" + options.name}})
    for (size_t at = 0; (at = log_path.find(mark, at)) != std::string::npos;) log_path.replace(at, mark.size(), value);
  log_info(fmt::format("job {}: {}", job, fmt::join(shape_options(shape), " ")));
  if (options.no_wait) {
    if (options.json)
      fmt::print("{}\n", nlohmann::json{{"job", job}, {"state", "submitted"}, {"log", log_path}}.dump(1));
    else
      fmt::print("{}\n", job);
    return 0;
  }
  return follow_job({job, log_path, options.json});
}

}  // namespace

void add_launch(CLI::App& app, int& exit_code) {
  const auto [verb, options] = add_verb<LaunchOptions>(
      app, "launch", "Write the job script that serves a model here, submit it, wait until it answers.", exit_code,
      run);
  verb->add_option("MODEL", options->model, "Folder, downloaded model (ORG/NAME) or named shape.");
  verb->add_option("SBATCH", options->extra, "Behind --: further options of sbatch (--qos=high -w n1).");
  verb->add_option("--site", options->site, "env/<site>.sh to use; default: SLUICE_SITE, else generic.");
  verb->add_option("--name", options->name,
                   "Service that the job stands for: other verbs take it for the job's id; default: none.");
  verb->add_flag("--keep-alive", options->keep_alive,
                 "Before its time runs out the job submits its successor, which takes over name, key and clients.");
  verb->add_option("--keep-alive-until", options->until,
                   "End of the service: 2026-12-24T18:00, or D-HH:MM:SS from now.");
  verb->add_option("--keep-alive-jobs", options->most_jobs,
                   fmt::format("Jobs of the service at most. Default: {}.", kMostJobs))
      ->check(CLI::Range(2, 10000));
  verb->add_option("--keep-alive-lead", options->lead,
                   "Time before a job's end at which its successor is submitted; default: a third of its time limit, "
                   "at most 30 minutes.");
  verb->add_option("--keep-alive-overlap", options->overlap,
                   "Time that the old server goes on beside the new one; default: one minute.");
  verb->add_option("--gpu", options->gpu, "Kind of GPU: a100:80, h100, NAME:GIB; default: the best of the cluster's.");
  verb->add_option("--gpus", options->gpus, "GPUs in all; default: as few as it fits on.")->check(CLI::Range(1, 4096));
  verb->add_flag("--cpu", options->cpu, "Ranks on CPUs; without a CUDA module the default.");
  verb->add_option("--nodes,-N", options->nodes, "Nodes; default: as few as the ranks need.")
      ->check(CLI::Range(1, 4096));
  verb->add_option("--ranks,-n", options->ranks, "Ranks on CPUs; default: one per node.")->check(CLI::Range(1, 4096));
  verb->add_option("--cpus,-c", options->cpus, "CPUs of a rank; default: 6 beside a GPU, else 8.")
      ->check(CLI::Range(1, 4096));
  verb->add_option("--mem", options->memory, "Memory of a node, as sbatch takes it; default: by the plan.");
  verb->add_option("--sequences", options->sequences, "Contexts that must fit at once; default: 1, on CPUs 16.")
      ->check(CLI::Range(1, 1 << 20));
  verb->add_option("--time,-t", options->time, "Time limit, as sbatch takes it; default: the site's.");
  verb->add_option("--partition,-p", options->partition, "Partition.");
  verb->add_option("--account,-A", options->account, "Account.");
  verb->add_option("--log", options->log, "File of the job's output; default: sluice-NAME-%j.log here.");
  verb->add_option("--output-script", options->output_script,
                   "Write the script there too; it stands alone: sbatch FILE.");
  verb->add_flag("--dry-run", options->dry_run, "Print the script, submit nothing.");
  verb->add_flag("--no-wait", options->no_wait, "Print the job's id once it is submitted.");
  verb->add_flag("--json", options->json, "Machine-readable.");
  add_flags(*verb, options->settings);
}

}  // namespace sluice
