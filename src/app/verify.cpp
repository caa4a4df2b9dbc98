// SPDX-License-Identifier: Apache-2.0
// sluice verify MODEL: compares a downloaded model with its digests; --repair fetches again what is damaged.
#include <fmt/format.h>

#include "app/progress.h"
#include "app/verb.h"
#include "app/verbs.h"
#include "base/error.h"
#include "base/log.h"
#include "hub/download.h"

namespace sluice {
namespace {

struct VerifyOptions {
  DownloadRequest request;
  bool repair = false;
};

int run(VerifyOptions& options) {
  const HubSettings hub = read_hub_settings(process_environment());
  const std::string &repo = options.request.repo, &revision = options.request.revision;
  if (!is_repo_id(repo)) throw Error(fmt::format("'{}' is no name of a downloaded model; expected ORG/NAME", repo));
  check_revision(revision);
  int64_t files = 0;
  const auto reading = [&](const std::string& path) {
    ++files;
    log_info(fmt::format("reading {}", path));
  };
  const std::vector<Damage> damage = verify_model(hub, repo, revision, reading);
  for (const Damage& one : damage) log_error(fmt::format("{}: {}", one.path, one.what));
  if (damage.empty()) {
    fmt::print("{}: {} files, all right\n", repo, files);
    return 0;
  }
  if (!options.repair) {
    fmt::print("{}: {} files are damaged; run: sluice verify {} --repair\n", repo, damage.size(), repo);
    return 1;
  }
  drop_damaged(hub, repo, revision, damage);
  ByteProgress progress(repo);
  download_model(hub, options.request, [&](const FetchProgress& now) {
    progress.show(now.done, now.total, now.fetched);
    return true;
  });
  fmt::print("{}: {} files fetched again, all right\n", repo, damage.size());
  return 0;
}

}  // namespace

void add_verify(CLI::App& app, int& exit_code) {
  const auto [verb, options] = add_verb<VerifyOptions>(
      app, "verify", "Check a downloaded model byte by byte against the hub's digests.", exit_code, run);
  verb->add_option("MODEL", options->request.repo, "Name on the hub, ORG/NAME [MODEL_ID].")
      ->envname("MODEL_ID")
      ->required();
  options->request.revision = "main";
  verb->add_option("--revision", options->request.revision, "Branch, tag or commit [REVISION].")
      ->envname("REVISION")
      ->capture_default_str();
  verb->add_flag("--repair", options->repair, "Fetch again what is damaged or missing.");
}

}  // namespace sluice
