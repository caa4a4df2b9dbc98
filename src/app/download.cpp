// SPDX-License-Identifier: Apache-2.0
// sluice download MODEL: fetches a model of the hub into the Hugging Face cache; run again after any kill it goes on.
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "app/progress.h"
#include "app/verb.h"
#include "app/verbs.h"
#include "base/error.h"
#include "base/log.h"
#include "cluster/signals.h"
#include "hub/download.h"

namespace sluice {
namespace {

struct DownloadOptions {
  DownloadRequest request;
  int connections = 8;
  bool json = false;
};

int run(DownloadOptions& options) {
  const HubSettings hub = read_hub_settings(process_environment());
  if (std::getenv("SLURM_JOB_ID") != nullptr && hub.token_origin.starts_with("HF_")) {
    log_warning(
        fmt::format("the token comes from {}, and a job's environment can be read by others on some sites; better "
                    "put it into {} (chmod 600) and leave the variable out",
                    hub.token_origin, hub.token_file.string()));
  }
  options.request.fetch.connections = options.connections;
  std::atomic<bool> stop{false}, begun{false};
  // What has arrived is kept however this ends; before that, and at a second signal, nothing is waited for.
  SignalWatch watch([&](int signal, int count) {
    if (!begun || count > 1) {
      log_warning(fmt::format("{}: leaving; run the same command again to go on", signal_name(signal)));
      ::_exit(kExitAgain);
    }
    stop = true;
  });
  Downloaded downloaded;
  try {
    ByteProgress progress(options.request.repo);
    downloaded = download_model(hub, options.request, [&](const FetchProgress& now) {
      begun = true;
      progress.show(now.done, now.total, now.fetched);
      return !stop.load();
    });
  } catch (const Error& error) {
    if (!stop) throw;
    log_warning(fmt::format("{}: {}", options.request.repo, error.what()));
    return kExitAgain;
  }
  log_info(fmt::format("{} at {}: {} files, {} ({} fetched now), all digests right", options.request.repo,
                       downloaded.commit, downloaded.files, format_bytes(static_cast<double>(downloaded.bytes)),
                       format_bytes(static_cast<double>(downloaded.fetched))));
  if (options.json) {
    fmt::print("{}\n", nlohmann::json{{"folder", downloaded.folder.string()},
                                      {"commit", downloaded.commit},
                                      {"files", downloaded.files},
                                      {"bytes", downloaded.bytes},
                                      {"fetched", downloaded.fetched}}
                           .dump(1));
  } else {
    fmt::print("{}\n", downloaded.folder.string());
  }
  return 0;
}

}  // namespace

void add_download(CLI::App& app, int& exit_code) {
  const auto [verb, options] = add_verb<DownloadOptions>(
      app, "download", "Fetch a model from the hub into the Hugging Face cache; prints its folder.", exit_code, run);
  verb->add_option("MODEL", options->request.repo, "Name on the hub, ORG/NAME [MODEL_ID].")
      ->envname("MODEL_ID")
      ->required();
  options->request.revision = "main";
  verb->add_option("--revision", options->request.revision, "Branch, tag or commit [REVISION].")
      ->envname("REVISION")
      ->capture_default_str();
  verb->add_option("--include", options->request.include, "Only files that match one of these patterns ('*.json').");
  verb->add_option("--exclude", options->request.exclude, "No file that matches one of these patterns.");
  verb->add_option("--connections", options->connections, "Transfers at once [DOWNLOAD_CONNECTIONS].")
      ->envname("DOWNLOAD_CONNECTIONS")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  verb->add_flag("--json", options->json, "Machine-readable.");
  verb->footer(
      "HF_HOME, HF_HUB_CACHE or TGI_DIR say where models go, HF_ENDPOINT which hub, HF_TOKEN or the token file who "
      "asks.");
}

}  // namespace sluice
