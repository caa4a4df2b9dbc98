// SPDX-License-Identifier: Apache-2.0
// sluice verify MODEL: compares a downloaded model with its digests, and packed weights with those that convert wrote;
// --repair fetches again what is damaged.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "app/idle_options.h"
#include "app/progress.h"
#include "app/verb.h"
#include "app/verbs.h"
#include "base/error.h"
#include "base/log.h"
#include "hub/digest.h"
#include "hub/download.h"
#include "weights/packed.h"

namespace sluice {
namespace {

struct VerifyOptions {
  DownloadRequest request;
  bool repair = false, json = false;
};

// The closing sentence; beside an object it goes to the log.
void say(bool json, const std::string& text) {
  if (json)
    log_info(text);
  else
    fmt::print("{}\n", text);
}

void print_damage(const std::string& model, int64_t files, const std::vector<Damage>& damage) {
  nlohmann::json out = {{"model", model}, {"files", files}, {"damaged", nlohmann::json::array()}};
  for (const Damage& one : damage) out["damaged"].push_back({{"path", one.path}, {"what", one.what}});
  fmt::print("{}\n", out.dump(1));
}

std::string files_are(size_t n) { return n == 1 ? "1 file is" : fmt::format("{} files are", n); }

int verify_packed(const PackedLayout& layout, bool json) {
  std::vector<Damage> damage;
  for (const PackedFile& file : layout.files) {
    const auto path = layout.folder / file.name;
    log_info(fmt::format("reading {}", path.string()));
    std::error_code missing;
    const auto bytes = std::filesystem::file_size(path, missing);
    std::string what;
    if (missing)
      what = "missing";
    else if (bytes != file.bytes)
      what = fmt::format("{} bytes, expected {}", bytes, file.bytes);
    else if (file_digest(path, file.sha256) != file.sha256)
      what = "its bytes are not those that were written";
    if (what.empty()) continue;
    log_error(fmt::format("{}: {}", path.string(), what));
    damage.push_back({file.name, what});
  }
  const std::string folder = layout.folder.string();
  if (json) print_damage(folder, static_cast<int64_t>(layout.files.size()), damage);
  if (damage.empty()) {
    say(json, fmt::format("{}: {} files packed for {}, all right", folder, layout.files.size(), layout.describe()));
    return 0;
  }
  say(json, fmt::format("{}: {} damaged; {}", folder, files_are(damage.size()), layout.again()));
  return 1;
}

int run(VerifyOptions& options) {
  if (const auto layout = read_packed_layout(options.request.repo)) {
    if (!options.request.revision.empty()) refuse_revision(options.request.revision, options.request.repo);
    if (options.repair) throw Error(fmt::format("--repair fetches from the hub; {}", layout->again()));
    return verify_packed(*layout, options.json);
  }
  if (options.request.revision.empty()) {
    const char* variable = process_environment()("REVISION");
    options.request.revision = variable == nullptr || *variable == '\0' ? "main" : variable;
  }
  const HubSettings hub = read_hub_settings(process_environment());
  const std::string &repo = options.request.repo, &revision = options.request.revision;
  if (!is_repo_id(repo))
    throw Error(
        fmt::format("'{}' is no name of a downloaded model and no folder of packed weights; expected ORG/NAME, "
                    "or what sluice convert --tp N --pp N wrote",
                    repo));
  check_revision(revision);
  int64_t files = 0;
  const auto reading = [&](const std::string& path) {
    ++files;
    log_info(fmt::format("reading {}", path));
  };
  const std::vector<Damage> damage = verify_model(hub, repo, revision, reading);
  for (const Damage& one : damage) log_error(fmt::format("{}: {}", one.path, one.what));
  if (options.json) print_damage(repo, files, damage);
  if (damage.empty()) {
    say(options.json, fmt::format("{}: {} files, all right", repo, files));
    return 0;
  }
  if (!options.repair) {
    say(options.json,
        fmt::format("{}: {} damaged; run: sluice verify {} --repair", repo, files_are(damage.size()), repo));
    return 1;
  }
  drop_damaged(hub, repo, revision, damage);
  ByteProgress progress(repo);
  download_model(hub, options.request, [&](const FetchProgress& now) {
    progress.show(now.done, now.total, now.fetched);
    return true;
  });
  say(options.json, fmt::format("{}: {} files fetched again, all right", repo, damage.size()));
  return 0;
}

}  // namespace

void add_verify(CLI::App& app, int& exit_code) {
  const auto [verb, options] = add_verb<VerifyOptions>(
      app, "verify", "Check a downloaded model byte by byte against the hub's digests, or packed weights.", exit_code,
      run);
  verb->add_option("MODEL", options->request.repo,
                   "Name on the hub, ORG/NAME, or a folder of packed weights [MODEL_ID].")
      ->envname("MODEL_ID")
      ->required();
  verb->add_option("--revision", options->request.revision, "Branch, tag or commit [REVISION]. Default: main.");
  verb->add_flag("--repair", options->repair, "Fetch again what is damaged or missing.");
  verb->add_flag("--json", options->json, "Machine-readable.");
}

}  // namespace sluice
