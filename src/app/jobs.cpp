// SPDX-License-Identifier: Apache-2.0
// sluice list, status, logs, stop, metrics: the user's servers, wherever they run.
#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <thread>

#include "app/progress.h"
#include "app/verbs.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/terminal.h"
#include "batch/progress.h"
#include "client/http_client.h"
#include "cluster/endpoint.h"
#include "cluster/walltime.h"
#include "launch/chain.h"
#include "launch/jobs.h"
#include "launch/submit.h"

namespace sluice {
namespace {

constexpr double kSilentSeconds = 600;  // a run that goes on says so every ten

struct JobOptions {
  std::string job;
  bool json = false, all = false, follow = false, now = false;
  int lines = 50;
};

// A prompt file's run as a job among others, once nothing else tells of it.
JobView view_of(const ProgressRecord& record, bool queue_known, const LocalFacts& local) {
  const BatchProgress& p = record.progress;
  JobView out;
  out.id = record.id, out.task = record.task, out.log = record.log, out.host = record.host;
  out.name = "sluice-generate", out.server = false;
  out.detail = fmt::format("{}: {} of {} prompts", record.state, p.done, p.prompts);
  out.state = "stopped";
  if (record.state != "running") return out;
  const bool here = record.job_id.empty() && record.host == local.host && record.pid > 0;
  const bool silent = local.now - record.updated > kSilentSeconds;
  const bool gone = here ? !local.alive(record.pid) : silent || (!record.job_id.empty() && queue_known);
  out.state = gone ? "lost" : here ? "running" : "unconfirmed";
  if (gone) out.detail += "; run the same command again to go on";
  return out;
}

std::vector<JobView> read_jobs() {
  const std::filesystem::path home = sluice_home(process_environment());
  const auto queue = read_queue(run_command);
  const LocalFacts local = local_facts();
  std::vector<JobView> out = reconcile(list_endpoints(home), queue, local);
  for (const ProgressRecord& record : list_progress(home)) {
    const auto known = std::ranges::find(out, base_id(record.id), [](const JobView& job) { return base_id(job.id); });
    if (known == out.end()) out.push_back(view_of(record, queue.has_value(), local));
  }
  return out;
}

nlohmann::json job_json(const JobView& job) {
  nlohmann::json out = {{"id", job.id},           {"task", job.task},         {"name", job.name},
                        {"server", job.server},   {"state", job.state},       {"detail", job.detail},
                        {"model", job.model},     {"url", job.url},           {"host", job.host},
                        {"port", job.port},       {"key_file", job.key_file}, {"log", job.log},
                        {"service", job.service}, {"seconds_left", nullptr}};
  if (job.seconds_left) out["seconds_left"] = *job.seconds_left;
  return out;
}

int list(const JobOptions& options) {
  std::vector<JobView> jobs = read_jobs();
  if (!options.all) std::erase_if(jobs, is_over);
  if (options.json) {
    nlohmann::json out = nlohmann::json::array();
    for (const JobView& job : jobs) out.push_back(job_json(job));
    fmt::print("{}\n", out.dump(1));
    return 0;
  }
  if (jobs.empty()) {
    fmt::print("no server of yours runs or waits{}\n", options.all ? "" : "; --all shows those that have ended");
    return 0;
  }
  const auto shown = [](const std::string& text) { return text.empty() ? "-" : text; };
  const auto in_brackets = [](const std::string& text) { return text.empty() ? text : fmt::format(" ({})", text); };
  Table table("llrll");
  table.add({"JOB", "STATE", "LEFT", "URL", "MODEL"});
  for (const JobView& job : jobs)
    table.add({job.id + in_brackets(job.service.empty() ? job.task : job.service), job.state,
               job.seconds_left ? format_time_left(*job.seconds_left) : "-", shown(job.url),
               job.model.empty() && !job.name.empty() ? fmt::format("[{}]", job.name) : shown(job.model)},
              job.detail);
  fmt::print("{}", table.text(STDOUT_FILENO));
  return 0;
}

void print_row(const char* name, const std::string& value) {
  fmt::print("{}\n", fitted(fmt::format("{:<12} {}", name, value), STDOUT_FILENO));
}

std::string key_of(const JobView& job) { return job.key_file.empty() ? std::string() : read_key(job.key_file); }

// A prompt file that is being answered, or was: `sluice generate` writes how far it is.
int batch_status(const ProgressRecord& batch, bool json) {
  const BatchProgress& p = batch.progress;
  const double silent = wall_seconds() - batch.updated;
  const bool runs = batch.state == "running";
  std::string detail;
  if (runs && silent > 60)
    detail = fmt::format("nothing heard of it for {}; squeue and its log say more", format_seconds(silent));
  if (batch.state == "stopped" || batch.state == "failed") detail = "run the same command again to go on";
  if (json) {
    nlohmann::json out = {{"id", batch.id},
                          {"task", batch.task},
                          {"state", batch.state},
                          {"detail", detail},
                          {"host", batch.host},
                          {"prompts", batch.prompts},
                          {"output", batch.output},
                          {"total", p.prompts},
                          {"done", p.done},
                          {"errors", p.errors},
                          {"generated_tokens", p.generated_tokens},
                          {"tokens_per_second", p.tokens_per_second},
                          {"seconds_left", nullptr},
                          {"updated", batch.updated}};
    if (p.seconds_left) out["seconds_left"] = *p.seconds_left;
    fmt::print("{}\n", out.dump(1));
    return runs ? 0 : 1;
  }
  print_row("job", batch.id + (batch.task.empty() ? "" : fmt::format(" ({})", batch.task)));
  print_row("state", batch.state);
  if (!detail.empty()) print_row("", detail);
  print_row("prompts", fmt::format("{} of {}{}", p.done, p.prompts,
                                   p.errors > 0 ? fmt::format(", {} with an error", p.errors) : ""));
  print_row("speed", fmt::format("{:.1f} tokens/s", p.tokens_per_second));
  if (runs && p.seconds_left) print_row("left", fmt::format("about {}", format_seconds(*p.seconds_left)));
  print_row("from", batch.prompts);
  print_row("to", batch.output);
  return runs ? 0 : 1;
}

// Of a job that did not come from our scripts, or has no record, Slurm knows it.
std::string log_of(const JobView& job) {
  if (!job.log.empty() || job.id.starts_with("local-")) return job.log;
  const auto said = run_command({"scontrol", "-o", "show", "job", base_id(job.id)}, 10);
  return said ? scontrol_value(said->output, "StdOut") : std::string();
}

// "demo, job 2 of its chain; next: 152 (pending)"
std::string service_words(const JobView& job) {
  if (job.service.empty()) return {};
  const Chain chain(sluice_home(process_environment()), job.service);
  const std::string id = base_id(job.id);
  const int generation = chain.generation_of(id);
  std::string out = job.service;
  if (generation > 0) out += fmt::format(", job {} of its chain", generation);
  if (chain.stopped()) return out + "; stopped, no job follows";
  if (const auto next = chain.job_of(generation + 1); generation > 0 && next)
    out += fmt::format("; next: {}", next->empty() ? "being submitted" : *next);
  return out;
}

int status(const JobOptions& options) {
  const std::filesystem::path home = sluice_home(process_environment());
  const std::vector<ProgressRecord> batches = list_progress(home);
  const auto batch = std::ranges::find_if(batches, [&](const ProgressRecord& r) {
    return r.id == options.job || (!r.task.empty() && r.task == options.job);
  });
  if (batch != batches.end()) return batch_status(*batch, options.json);
  const std::vector<JobView> jobs = read_jobs();
  JobView job;
  try {
    job = find_job(jobs, options.job);
  } catch (const Error&) {  // one that ended before it had a record
    const bool id = options.job.find_first_not_of("0123456789_") == std::string::npos;
    const std::string ending = id ? job_ending(run_command, options.job) : "";
    if (ending.empty()) throw;
    throw Error(
        fmt::format("job {} left no record of a server; Slurm says {}, and its log says why", options.job, ending));
  }
  if (const auto other = read_progress(home, job.id)) return batch_status(*other, options.json);
  if (job.state == "lost" && !job.id.starts_with("local-")) {
    if (const std::string ending = job_ending(run_command, base_id(job.id)); !ending.empty())
      job.detail += fmt::format(" (Slurm says {})", ending);
  }
  nlohmann::json out = job_json(job);
  std::string health = "not asked";
  if (!job.url.empty() && !is_over(job)) {
    try {
      HttpClient client(Url::parse(job.url), key_of(job));
      client.connect_seconds = 3, client.silence_seconds = 5;
      const ClientReply reply = client.get("/health");
      health = reply.head.status == 200 ? "answers" : fmt::format("answers {}", reply.head.status);
      const std::string text = client.get("/metrics").body;
      for (const auto& [name, metric] : {std::pair{"running", "vllm:num_requests_running"},
                                         {"waiting", "vllm:num_requests_waiting"},
                                         {"cache_use", "vllm:kv_cache_usage_perc"},
                                         {"generated_tokens", "vllm:generation_tokens_total"}}) {
        const size_t at = text.find(std::string("\n") + metric + " ");
        if (at != text.npos) out[name] = std::strtod(text.c_str() + text.find(' ', at + 1), nullptr);
      }
    } catch (const Error& error) {
      health = fmt::format("no answer: {}", error.what());
    }
  }
  out["health"] = health;
  if (options.json) {
    fmt::print("{}\n", out.dump(1));
    return is_over(job) ? 1 : 0;
  }
  const auto row = [](const char* name, const std::string& value) {
    if (!value.empty()) print_row(name, value);
  };
  row("job", job.id + (job.task.empty() ? "" : fmt::format(" ({})", job.task)));
  row("state", job.state);
  row("", job.detail);
  row("service", service_words(job));
  row("model", job.model);
  row("url", job.url);
  row("health", health);
  if (out.contains("running")) {
    row("requests", fmt::format("{} running, {} waiting", out["running"].get<double>(), out["waiting"].get<double>()));
    row("cache", fmt::format("{:.1f} % in use", 100 * out["cache_use"].get<double>()));
    row("generated", fmt::format("{:.0f} tokens", out["generated_tokens"].get<double>()));
  }
  if (job.seconds_left) row("time left", format_time_left(*job.seconds_left));
  row("key file", job.key_file);
  row("log", job.log);
  return is_over(job) ? 1 : 0;
}

// As it is, or each line as an object; what follows the last line's end waits in `rest` for more.
void print_log(const std::string& text, bool json, std::string& rest) {
  if (json) {
    rest += text;
    size_t at = 0;
    for (size_t end; (end = rest.find('\n', at)) != rest.npos; at = end + 1)
      fmt::print("{}\n", nlohmann::json{{"line", rest.substr(at, end - at)}}.dump(
                             -1, ' ', false, nlohmann::json::error_handler_t::replace));
    rest.erase(0, at);
  } else {
    std::fwrite(text.data(), 1, text.size(), stdout);
  }
  std::fflush(stdout);
}

// The last lines, then what is added.
int logs(const JobOptions& options) {
  const JobView job = find_job(read_jobs(), options.job);
  const std::string path = log_of(job);
  if (path.empty())
    throw Error(fmt::format("where job {} writes its log is not known: it did not come from the job scripts", job.id));
  const std::string text = read_file(path);
  size_t begin = text.size();
  for (int line = 0; begin > 0 && line <= options.lines; --begin) line += text[begin - 1] == '\n';
  if (begin > 0) begin += 1;
  std::string rest;
  print_log(text.substr(begin), options.json, rest);
  uint64_t at = text.size();
  const std::filesystem::path home = sluice_home(process_environment());
  QueueWatch queue(run_command);
  while (options.follow && std::ferror(stdout) == 0) {
    std::this_thread::sleep_for(std::chrono::milliseconds(500));
    const File file = File::open_read(path);
    const uint64_t size = file.size();
    if (size < at) at = 0;  // begun anew
    std::string more(size - at, '\0');
    if (!more.empty()) file.read_at(at, more.data(), more.size());
    at = size;
    print_log(more, options.json, rest);
    if (!more.empty()) continue;
    const std::vector<Endpoint> records = list_endpoints(home);
    const std::vector<JobView> jobs =
        reconcile(records, queue.read(records, monotonic_seconds(), wall_seconds()), local_facts());
    if (std::none_of(jobs.begin(), jobs.end(), [&](const JobView& j) { return j.id == job.id && !is_over(j); })) break;
  }
  if (!rest.empty()) print_log("\n", true, rest);
  return 0;
}

void cancel(const std::string& id, bool drain) {
  const auto said =
      drain ? run_command({"scancel", "--batch", "--signal=TERM", id}, 20) : run_command({"scancel", id}, 20);
  if (said && said->exit_code == 0) return;
  const auto queue = read_queue(run_command);  // it may have ended meanwhile
  const auto goes_on = [&](const QueueRow& row) { return row.id == id && row.state != "COMPLETING"; };
  if (!queue || std::any_of(queue->begin(), queue->end(), goes_on)) throw Error(fmt::format("scancel {} failed", id));
}

// No job of it follows, those that wait are taken out of the queue. Returns the ids that run.
std::vector<std::string> end_service(const std::string& service) {
  Chain chain(sluice_home(process_environment()), service);
  chain.stop();
  const auto queue = read_queue(run_command);
  if (!queue) throw Error("squeue does not answer; no further job of the service is submitted, those there go on");
  std::vector<std::string> running;
  for (const std::string& job : chain.jobs()) {
    for (const QueueRow& row : *queue) {
      if (row.id != job) continue;
      if (row.state == "PENDING")
        cancel(job, false);
      else
        running.push_back(job);
    }
  }
  return running;
}

int stop(const JobOptions& options) {
  const JobView job = find_job(read_jobs(), options.job);
  std::vector<std::string> ids = {job.id};
  nlohmann::json out = nlohmann::json::array();
  const auto say = [&](const std::string& what, const std::string& words) {
    if (!options.json) fmt::print("{}: {}\n", what, words);
    out.push_back({{"id", what}, {"what", words}});
  };
  if (!job.service.empty()) {
    ids = end_service(job.service);
    say(job.service, "no further job follows");
  }
  if (job.id.starts_with("local-")) {
    if (job.host != local_facts().host) throw Error(fmt::format("{} runs on {}; stop it there", job.id, job.host));
    const int pid = std::stoi(job.id.substr(6));
    if (!is_over(job) && ::kill(pid, options.now ? SIGKILL : SIGTERM) != 0)
      throw Error(fmt::format("process {} cannot be signalled", pid));
  }
  if (is_over(job) && job.service.empty()) {
    say(job.id, fmt::format("has ended already: {}", job.detail));
    ids.clear();
  }
  // A job that answers a prompt file would come back after draining.
  const bool now = options.now || job.state == "pending" || !job.server;
  for (const std::string& id : ids) {
    if (!id.starts_with("local-")) cancel(id != job.id ? id : job.task.empty() ? base_id(job.id) : job.task, !now);
    say(id, !now         ? "drains, then ends; accepted requests are answered"
            : job.server ? "ended"
                         : "ended; what is finished stays");
  }
  if (options.json) fmt::print("{}\n", out.dump(1));
  return 0;
}

// Lines `name{label="value",...} number` of a server's own page; labels stay as they are written there.
nlohmann::json metrics_json(const std::string& page) {
  nlohmann::json out;
  for (size_t at = 0; at < page.size();) {
    const size_t end = std::min(page.find('\n', at), page.size());
    const std::string line = page.substr(at, end - at);
    at = end + 1;
    const size_t blank = line.rfind(' ');
    if (line.starts_with('#') || blank == line.npos) continue;
    out[line.substr(0, blank)] = std::strtod(line.c_str() + blank, nullptr);
  }
  return out;
}

int metrics(const JobOptions& options) {
  const JobView job = find_job(read_jobs(), options.job);
  require_going(job);
  if (job.url.empty()) throw Error(fmt::format("job {} has no address yet: {} ({})", job.id, job.state, job.detail));
  HttpClient client(Url::parse(job.url), key_of(job));
  const ClientReply reply = client.get("/metrics");
  if (reply.head.status != 200) throw Error(fmt::format("{} answers {} to /metrics", job.url, reply.head.status));
  if (options.json)
    fmt::print("{}\n", metrics_json(reply.body).dump(1));
  else
    std::fwrite(reply.body.data(), 1, reply.body.size(), stdout);
  return 0;
}

CLI::App* verb(CLI::App& app, const char* name, const char* help, const std::shared_ptr<JobOptions>& options,
               bool needs_job) {
  CLI::App* out = app.add_subcommand(name, help);
  if (needs_job)
    out->add_option("JOB", options->job,
                    "Job id, as `sluice list` shows it or of an array (148_3), or a service's name.")
        ->required();
  return out;
}

}  // namespace

void add_jobs(CLI::App& app, int& exit_code) {
  const auto options = std::make_shared<JobOptions>();
  CLI::App* one = verb(app, "list", "Your servers: running, loading, waiting in the queue.", options, false);
  one->add_flag("--all", options->all, "Those that have ended too.");
  one->add_flag("--json", options->json, "Machine-readable.");
  one->callback([options, &exit_code] { exit_code = list(*options); });
  one =
      verb(app, "status", "One server: state, address, load, time left. Exit code 1 when it has ended.", options, true);
  one->add_flag("--json", options->json, "Machine-readable.");
  one->callback([options, &exit_code] { exit_code = status(*options); });
  one = verb(app, "logs", "The end of a job's log.", options, true);
  one->add_flag("-f,--follow", options->follow, "Go on as lines are added, until the job ends.");
  one->add_option("-n,--lines", options->lines, "Lines to begin with.")
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str();
  one->add_flag("--json", options->json, "Each line as a JSON object.");
  one->callback([options, &exit_code] { exit_code = logs(*options); });
  one = verb(app, "stop", "Drain a server and end its job.", options, true);
  one->add_flag("--now", options->now, "Do not wait for requests under way.");
  one->add_flag("--json", options->json, "Machine-readable.");
  one->callback([options, &exit_code] { exit_code = stop(*options); });
  one = verb(app, "metrics", "A server's /metrics.", options, true);
  one->add_flag("--json", options->json, "As one JSON object.");
  one->callback([options, &exit_code] { exit_code = metrics(*options); });
}

}  // namespace sluice
