// SPDX-License-Identifier: Apache-2.0
#include "hub/download.h"

#include <fmt/format.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "hub/digest.h"
#include "hub/owner.h"

namespace sluice {
namespace fs = std::filesystem;
namespace {
constexpr double kStaleSeconds = 120, kTouchSeconds = 10;

// A link to the blob beside, or the blob itself where the file system has no links.
void place(const RepoCache& paths, const std::string& commit, const RepoFile& file) {
  const fs::path at = paths.snapshot(commit) / file.path;
  fs::path target = "..";
  for (const auto& part : fs::path(file.path).parent_path()) {
    (void)part;
    target /= "..";
  }
  target = target / ".." / "blobs" / file.digest;
  std::error_code error;
  if (fs::is_symlink(at, error) && fs::read_symlink(at, error) == target) return;
  fs::create_directories(at.parent_path());
  const fs::path fresh = at.string() + fmt::format(".new-{}", ::getpid());
  fs::remove(fresh, error);
  fs::create_symlink(target, fresh, error);
  if (error) fs::create_hard_link(paths.blob(file.digest), fresh, error);
  if (error) fs::copy_file(paths.blob(file.digest), fresh, fs::copy_options::overwrite_existing, error);
  if (error) throw Error(fmt::format("cannot make {}: {}", fresh.string(), error.message()));
  fs::rename(fresh, at);
}

void write_manifest(const RepoCache& paths, const std::string& commit, const std::vector<RepoFile>& files) {
  nlohmann::json json;
  for (const RepoFile& file : files) json[file.path] = {{"size", file.size}, {"digest", file.digest}};
  fs::create_directories(paths.manifest(commit).parent_path());
  replace_file(paths.manifest(commit), json.dump(1) + "\n");
}

std::vector<RepoFile> read_manifest(const fs::path& path) {
  const auto json = nlohmann::json::parse(read_file(path), nullptr, false);
  std::vector<RepoFile> files;
  if (!json.is_object()) throw Error(fmt::format("{} is not a manifest; remove it and download again", path.string()));
  for (const auto& [name, entry] : json.items()) {
    const bool good = entry.is_object() && entry.contains("size") && entry["size"].is_number_unsigned() &&
                      entry.contains("digest") && entry["digest"].is_string() &&
                      is_content_name(entry["digest"].get<std::string>());
    if (!good)
      throw Error(fmt::format("{}: the entry of {} lacks size or digest; download again", path.string(), name));
    files.push_back({name, entry["size"].get<uint64_t>(), entry["digest"].get<std::string>()});
  }
  return files;
}

// The manifest; for a snapshot that another program downloaded, what its links say.
std::vector<RepoFile> expected_files(const RepoCache& paths, const std::string& commit) {
  std::error_code error;
  if (fs::is_regular_file(paths.manifest(commit), error)) return read_manifest(paths.manifest(commit));
  std::vector<RepoFile> files;
  const fs::path folder = paths.snapshot(commit);
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (!entry.is_symlink()) continue;
    const std::string digest = fs::read_symlink(entry.path()).filename();
    if (!is_content_name(digest)) continue;
    const uint64_t size = fs::file_size(paths.blob(digest), error);
    files.push_back(
        {fs::relative(entry.path().parent_path(), folder) / entry.path().filename(), error ? 0 : size, digest});
    if (files.back().path.starts_with("./")) files.back().path.erase(0, 2);
  }
  if (files.empty()) {
    throw Error(
        fmt::format("{} holds plain files without digests; nothing tells whether they are right. Download again "
                    "with sluice",
                    folder.string()));
  }
  return files;
}

std::string commit_here(const RepoCache& paths, const std::string& repo, const std::string& revision) {
  const std::optional<std::string> commit = paths.commit_of(revision);
  if (!commit) {
    throw Error(fmt::format("{} at revision '{}' is not in {}; run: sluice download {}", repo, revision,
                            paths.root.parent_path().string(), repo));
  }
  return *commit;
}
}  // namespace

Downloaded download_model(const HubSettings& hub, const DownloadRequest& request,
                          const std::function<bool(const FetchProgress&)>& tick) {
  if (!is_repo_id(request.repo)) {
    throw Error(fmt::format("'{}' is no name of a model on the hub; expected ORG/NAME", request.repo));
  }
  check_revision(request.revision);
  if (hub.offline) {
    throw Error("HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE) is set, and a download needs the hub; unset it here");
  }
  const RepoCache paths(hub.cache, request.repo);
  FetchProgress progress;
  double touched = monotonic_seconds();
  RepoOwner owner(
      paths.root / ".sluice", kStaleSeconds,
      [&](const std::string& who) {
        log_info(fmt::format("{} is being downloaded by {}; waiting for it", request.repo, who));
      },
      [&] { return !tick(progress); });
  Transfers transfers;
  const RepoListing listing = list_repo(transfers, hub, request.repo, request.revision);
  const std::vector<RepoFile> files = choose_files(listing.files, request.include, request.exclude);
  if (files.empty()) {
    throw Error(
        fmt::format("none of the {} files of {} is wanted; expected config.json, safetensors or .bin weights and "
                    "a tokenizer, or patterns that match",
                    listing.files.size(), request.repo));
  }
  fetch_blobs(transfers, hub, request.repo, listing.commit, paths, files, request.fetch, [&](const FetchProgress& now) {
    progress = now;
    if (monotonic_seconds() - touched > kTouchSeconds) {
      owner.touch();
      touched = monotonic_seconds();
    }
    return tick(now);
  });
  for (const RepoFile& file : files) place(paths, listing.commit, file);
  write_manifest(paths, listing.commit, files);
  // Last: a ref stands for a whole snapshot.
  if (request.revision != listing.commit) {
    fs::create_directories(paths.ref(request.revision).parent_path());
    replace_file(paths.ref(request.revision), listing.commit);
  }
  return {paths.snapshot(listing.commit), listing.commit, static_cast<int64_t>(files.size()), progress.total,
          progress.fetched};
}

std::vector<Damage> verify_model(const HubSettings& hub, const std::string& repo, const std::string& revision,
                                 const std::function<void(const std::string& path)>& reading) {
  const RepoCache paths(hub.cache, repo);
  const std::string commit = commit_here(paths, repo, revision);
  std::vector<Damage> damage;
  for (const RepoFile& file : expected_files(paths, commit)) {
    const fs::path at = paths.snapshot(commit) / file.path;
    std::error_code error;
    const uint64_t size = fs::file_size(at, error);
    if (error) {
      damage.push_back({file.path, "missing"});
      continue;
    }
    if (size != file.size) {
      damage.push_back({file.path, fmt::format("{} bytes, expected {}", size, file.size)});
      continue;
    }
    reading(file.path);
    const std::string digest = file_digest(at, file.digest);
    if (digest != file.digest)
      damage.push_back({file.path, fmt::format("digest {}, expected {}", digest, file.digest)});
  }
  return damage;
}

void drop_damaged(const HubSettings& hub, const std::string& repo, const std::string& revision,
                  const std::vector<Damage>& damage) {
  const RepoCache paths(hub.cache, repo);
  const std::string commit = commit_here(paths, repo, revision);
  for (const Damage& one : damage) {
    std::error_code error;
    const fs::path at = paths.snapshot(commit) / one.path;
    if (fs::is_symlink(at, error)) fs::remove(paths.blob(fs::read_symlink(at, error).filename().string()), error);
    fs::remove(at, error);
  }
  // The manifest knows what a lost link led to.
  if (std::error_code error; fs::is_regular_file(paths.manifest(commit), error)) {
    for (const RepoFile& file : read_manifest(paths.manifest(commit))) {
      for (const Damage& one : damage) {
        if (one.path == file.path) fs::remove(paths.blob(file.digest), error);
      }
    }
  }
}

}  // namespace sluice
