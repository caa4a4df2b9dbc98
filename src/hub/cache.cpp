// SPDX-License-Identifier: Apache-2.0
#include "hub/cache.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>

#include "base/error.h"
#include "base/file.h"
#include "hub/digest.h"

namespace sluice {
namespace fs = std::filesystem;
namespace {

std::string text(const Environment& environment, const char* name) {
  const char* value = environment(name);
  return value == nullptr ? std::string() : std::string(value);
}

bool truth(std::string value) {
  std::transform(value.begin(), value.end(), value.begin(), [](unsigned char c) { return std::toupper(c); });
  return value == "1" || value == "ON" || value == "YES" || value == "TRUE";
}

fs::path hf_home(const Environment& environment) {
  if (const std::string home = text(environment, "HF_HOME"); !home.empty()) return home;
  if (const std::string cache = text(environment, "XDG_CACHE_HOME"); !cache.empty())
    return fs::path(cache) / "huggingface";
  if (const std::string home = text(environment, "HOME"); !home.empty()) return fs::path(home) / ".cache/huggingface";
  throw Error("no place for models: neither HF_HOME nor HOME is set; set HF_HOME to a folder on a large file system");
}

std::string first_line(const fs::path& path) {
  std::error_code error;
  if (!fs::is_regular_file(path, error)) return {};
  std::string content = read_file(path);
  content.resize(std::min(content.size(), content.find_first_of("\r\n")));
  while (!content.empty() && content.back() == ' ') content.pop_back();
  return content;
}

bool is_checkpoint(const fs::path& folder) {
  std::error_code error;
  return fs::is_regular_file(folder / "config.json", error) || fs::is_regular_file(folder / "config.ini", error) ||
         fs::is_regular_file(folder / "model_config.yaml", error);
}

// A snapshot whose download was completed: its ref or manifest is written last.
std::optional<fs::path> snapshot_of(const fs::path& cache, const std::string& repo, const std::string& revision) {
  const RepoCache paths(cache, repo);
  const std::optional<std::string> commit = paths.commit_of(revision);
  if (!commit) return std::nullopt;
  const fs::path folder = paths.snapshot(*commit);
  if (!is_checkpoint(folder)) return std::nullopt;
  return folder;
}

}  // namespace

HubSettings read_hub_settings(const Environment& environment) {
  HubSettings hub;
  hub.endpoint = text(environment, "HF_ENDPOINT");
  if (hub.endpoint.empty()) hub.endpoint = "https://huggingface.co";
  while (hub.endpoint.ends_with('/')) hub.endpoint.pop_back();
  const fs::path home = hf_home(environment);
  hub.cache = text(environment, "HF_HUB_CACHE");
  if (hub.cache.empty()) hub.cache = text(environment, "HUGGINGFACE_HUB_CACHE");
  const std::string tgi = text(environment, "TGI_DIR");
  if (hub.cache.empty() && !tgi.empty()) hub.cache = fs::path(tgi) / "hub";
  if (hub.cache.empty()) hub.cache = home / "hub";
  hub.token_file = text(environment, "HF_TOKEN_PATH");
  if (hub.token_file.empty()) hub.token_file = home / "token";
  for (const char* variable : {"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"}) {
    hub.token = text(environment, variable);
    hub.token_origin = variable;
    if (!hub.token.empty()) break;
  }
  if (hub.token.empty()) {
    hub.token = first_line(hub.token_file);
    hub.token_origin = hub.token.empty() ? std::string() : hub.token_file.string();
  }
  if (std::any_of(hub.token.begin(), hub.token.end(), [](unsigned char c) { return c <= ' ' || c >= 127; })) {
    throw Error(fmt::format("the token of {} holds blanks or control characters; expected one word", hub.token_origin));
  }
  hub.offline = truth(text(environment, "HF_HUB_OFFLINE")) || truth(text(environment, "TRANSFORMERS_OFFLINE"));
  const std::string search = text(environment, "MODEL_PATH");
  for (size_t begin = 0; begin < search.size();) {
    const size_t end = std::min(search.find(':', begin), search.size());
    if (end > begin) hub.search.emplace_back(search.substr(begin, end - begin));
    begin = end + 1;
  }
  if (!tgi.empty()) hub.search.emplace_back(tgi);
  return hub;
}

bool is_repo_id(std::string_view name) {
  if (name.empty() || name.size() > 200 || std::count(name.begin(), name.end(), '/') > 1) return false;
  for (size_t begin = 0; begin <= name.size();) {
    const size_t end = std::min(name.find('/', begin), name.size());
    const std::string_view part = name.substr(begin, end - begin);
    if (part.empty() || part.front() == '.' || part.front() == '-' || part.find("..") != part.npos) return false;
    if (part.find("--") != part.npos) return false;
    for (const char c : part) {
      if (!std::isalnum(static_cast<unsigned char>(c)) && c != '-' && c != '_' && c != '.') return false;
    }
    begin = end + 1;
  }
  return true;
}

RepoCache::RepoCache(const fs::path& cache, std::string_view repo) {
  std::string name = "models--";
  for (const char c : repo) name += c == '/' ? std::string("--") : std::string(1, c);
  root = cache / name;
}

fs::path RepoCache::manifest(std::string_view commit) const {
  return root / ".sluice" / fmt::format("{}.json", commit);
}

std::optional<std::string> RepoCache::commit_of(const std::string& revision) const {
  std::error_code error;
  if (is_content_name(revision) && fs::is_directory(snapshot(revision), error)) return revision;
  const fs::path path = ref(revision);
  if (!fs::is_regular_file(path, error)) return std::nullopt;
  const std::string commit = first_line(path);
  if (!is_content_name(commit) || !fs::is_directory(snapshot(commit), error)) return std::nullopt;
  return commit;
}

std::optional<fs::path> find_model(const HubSettings& hub, const std::string& name, const std::string& revision) {
  std::error_code error;
  if (fs::is_directory(name, error)) return fs::path(name);
  if (!is_repo_id(name)) return std::nullopt;
  const std::string wanted = revision.empty() ? "main" : revision;
  for (const fs::path& folder : hub.search) {
    // Plain folders carry no revision: they answer only when none is asked for.
    if (revision.empty()) {
      for (const fs::path& candidate : {folder / name, folder / fs::path(name).filename()}) {
        if (is_checkpoint(candidate)) return candidate;
      }
    }
    for (const fs::path& cache : {folder, folder / "hub"}) {
      if (auto found = snapshot_of(cache, name, wanted)) return found;
    }
  }
  return snapshot_of(hub.cache, name, wanted);
}

fs::path require_model(const HubSettings& hub, const std::string& name, const std::string& revision) {
  if (auto found = find_model(hub, name, revision)) return *found;
  std::error_code error;
  if (fs::exists(name, error))
    throw Error(
        fmt::format("'{}' is a file; expected a folder with a checkpoint (config.json), a .nemo file or the "
                    "name of a model on the hub (ORG/NAME)",
                    name));
  if (!is_repo_id(name)) {
    throw Error(fmt::format(
        "'{}' is neither a folder with a checkpoint (config.json) nor the name of a model on the hub (ORG/NAME)",
        name));
  }
  std::vector<std::string> places;
  for (const fs::path& folder : hub.search) places.push_back(folder.string());
  places.push_back(hub.cache.string());
  throw Error(fmt::format(
      "model '{}'{} is not here; looked in {}. Where there is internet, run: sluice download {}{}   (or sbatch "
      "--export=ALL,MODEL_ID={} slurm/download.sh); folders of a shared collection go into MODEL_PATH",
      name, revision.empty() ? "" : " at revision '" + revision + "'", fmt::join(places, ", "), name,
      revision.empty() ? "" : " --revision " + revision, name));
}

}  // namespace sluice
