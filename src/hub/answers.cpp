// SPDX-License-Identifier: Apache-2.0
#include "hub/answers.h"

#include <fmt/format.h>
#include <fnmatch.h>

#include <algorithm>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "hub/digest.h"

namespace sluice {
namespace {
using Json = nlohmann::json;

void check_path(const std::string& path) {
  bool good = !path.empty() && path.size() < 1024 && path.find('\\') == path.npos && path.find('\0') == path.npos;
  for (size_t begin = 0; good && begin <= path.size();) {
    const size_t end = std::min(path.find('/', begin), path.size());
    const std::string part = path.substr(begin, end - begin);
    good = !part.empty() && part != "." && part != "..";
    begin = end + 1;
  }
  if (!good)
    throw Error(fmt::format("the hub lists a file named '{}'; expected a relative path inside the model", path));
}

Json parse(const std::string& body, const std::string& what) {
  Json json = Json::parse(body, nullptr, false);
  if (json.is_discarded()) throw Error(fmt::format("{}: the hub's answer is not JSON: {:.200}", what, body));
  return json;
}

// The member of that kind, or null.
const Json* member(const Json& object, const char* name, Json::value_t type) {
  const auto found = object.find(name);
  return found == object.end() || found->type() != type ? nullptr : &*found;
}

RepoFile read_entry(const Json& entry) {
  RepoFile file;
  if (const Json* path = member(entry, "path", Json::value_t::string)) file.path = path->get<std::string>();
  check_path(file.path);
  const Json* lfs = member(entry, "lfs", Json::value_t::object);
  const Json& holder = lfs != nullptr ? *lfs : entry;
  const Json* size = member(holder, "size", Json::value_t::number_unsigned);
  const Json* oid = member(holder, "oid", Json::value_t::string);
  if (size == nullptr || oid == nullptr || !is_content_name(oid->get<std::string>()))
    throw Error(fmt::format("the hub's entry for {} lacks a size or a digest; found {}", file.path, entry.dump()));
  file.size = size->get<uint64_t>();
  file.digest = oid->get<std::string>();
  return file;
}
}  // namespace

std::string header(const GetResult& result, const char* name) {
  const auto found = result.headers.find(name);
  return found == result.headers.end() ? std::string() : found->second;
}

std::string next_page(const GetResult& result) {
  const std::string link = header(result, "link");
  const size_t rel = link.find("rel=\"next\"");
  if (rel == link.npos) return {};
  const size_t open = link.rfind('<', rel), close = link.find('>', open);
  return open == link.npos || close == link.npos ? std::string() : link.substr(open + 1, close - open - 1);
}

void check_revision(const std::string& revision) {
  const bool good = !revision.empty() && revision.front() != '/' && revision.front() != '.' && revision.back() != '/' &&
                    revision.find("..") == revision.npos && revision.find("//") == revision.npos &&
                    std::all_of(revision.begin(), revision.end(), [](unsigned char c) {
                      return std::isalnum(c) != 0 || c == '-' || c == '_' || c == '.' || c == '/';
                    });
  if (!good) throw Error(fmt::format("revision '{}' is no branch, tag or commit", revision));
}

bool worth_retrying(const GetResult& result) {
  if (result.lasting) return false;
  return result.status == 0 || !result.error.empty() || result.status == 408 || result.status == 429 ||
         result.status >= 500;
}

double retry_delay(const GetResult& result, int attempt) {
  const std::string after = header(result, "retry-after");
  if (!after.empty() && std::isdigit(static_cast<unsigned char>(after[0])) != 0)
    return std::clamp(std::atof(after.c_str()), 0.0, 300.0);
  // ratelimit: "api";r=0;t=57
  const std::string limit = header(result, "ratelimit");
  if (const size_t t = limit.find("t=");
      result.status == 429 && t != limit.npos && std::isdigit(static_cast<unsigned char>(limit[t + 2])) != 0)
    return std::clamp(std::atof(limit.c_str() + t + 2), 0.0, 300.0);
  return std::min(30.0, 0.5 * static_cast<double>(1 << std::min(attempt, 6)));
}

std::string explain_refusal(const GetResult& result, const HubSettings& hub, const std::string& what) {
  if (result.status == 0 || !result.error.empty()) {
    return fmt::format("{}: {}. Compute nodes of many clusters have no internet: download on a login or data node",
                       what, result.error.empty() ? "no answer" : result.error);
  }
  const std::string code = header(result, "x-error-code"), message = header(result, "x-error-message");
  const std::string said = message.empty() ? std::string() : fmt::format(" ({})", message);
  const std::string token = hub.token.empty() ? fmt::format("no token is set: put one into {} (mode 0600) or HF_TOKEN",
                                                            hub.token_file.string())
                                              : fmt::format("the token of {} was sent", hub.token_origin);
  if (code == "GatedRepo") {
    return fmt::format("{}: access needs the licence to be accepted on the model's page at {}{}; {}", what,
                       hub.endpoint, said, token);
  }
  if (code == "RevisionNotFound") return fmt::format("{}: there is no such revision{}", what, said);
  if (code == "EntryNotFound") return fmt::format("{}: there is no such file at that revision{}", what, said);
  if (result.status == 401 || code == "RepoNotFound") {
    return fmt::format("{}: the hub knows no such model, or it is private{}; {}", what, said, token);
  }
  if (result.status == 403) return fmt::format("{}: access is refused{}; {}", what, said, token);
  if (result.status == 404) return fmt::format("{}: not found at {}{}", what, hub.endpoint, said);
  if (result.status == 407) return fmt::format("{}: the proxy wants a login (407); see https_proxy", what);
  if (result.status == 429) {
    return fmt::format("{}: too many requests from this address (429){}; others may share it. {}", what, said,
                       hub.token.empty() ? "A token raises the limit" : "Try again later");
  }
  return fmt::format("{}: the hub answers {}{}", what, result.status, said);
}

std::string read_commit(const std::string& body, const std::string& what) {
  const Json info = parse(body, what);
  const Json* sha = member(info, "sha", Json::value_t::string);
  std::string commit = sha != nullptr ? sha->get<std::string>() : std::string();
  if (!is_content_name(commit) || commit.size() != 40)
    throw Error(fmt::format("{}: the hub names no commit; expected 40 hex digits as sha, found {:.200}", what, body));
  return commit;
}

void read_listing(const std::string& body, const std::string& what, std::vector<RepoFile>& files) {
  const Json entries = parse(body, what);
  if (!entries.is_array()) throw Error(fmt::format("{}: expected a list of files, found {:.200}", what, body));
  for (const Json& entry : entries) {
    if (!entry.is_object()) continue;
    const Json* type = member(entry, "type", Json::value_t::string);
    if (type != nullptr && type->get_ref<const std::string&>() == "file") files.push_back(read_entry(entry));
  }
}

namespace {
bool matches(const std::string& path, const std::vector<std::string>& patterns) {
  const std::string name = path.substr(path.rfind('/') + 1);
  return std::any_of(patterns.begin(), patterns.end(), [&](const std::string& pattern) {
    return ::fnmatch(pattern.c_str(), path.c_str(), 0) == 0 || ::fnmatch(pattern.c_str(), name.c_str(), 0) == 0;
  });
}
}  // namespace

std::vector<RepoFile> choose_files(const std::vector<RepoFile>& files, const std::vector<std::string>& include,
                                   const std::vector<std::string>& exclude) {
  const auto any = [&](const char* ending) {
    return std::any_of(files.begin(), files.end(), [&](const RepoFile& file) {
      return file.path.find('/') == file.path.npos && file.path.ends_with(ending);
    });
  };
  const bool safetensors = any(".safetensors");
  const bool bin = !safetensors && any(".bin");
  const bool nemo = !safetensors && !bin && any(".nemo");
  std::vector<RepoFile> out;
  for (const RepoFile& file : files) {
    if (matches(file.path, exclude)) continue;
    if (!include.empty()) {
      if (matches(file.path, include)) out.push_back(file);
      continue;
    }
    const std::string& p = file.path;
    if (p.find('/') != p.npos) continue;  // other formats and samples live in folders
    const bool weights = (safetensors && p.ends_with(".safetensors") && !p.starts_with("consolidated")) ||
                         (bin && p.ends_with(".bin") && p != "training_args.bin") || (nemo && p.ends_with(".nemo"));
    const bool index = p.ends_with(".index.json");
    const bool wanted_index =
        index && ((safetensors && p.find("safetensors") != p.npos) || (bin && p.ends_with(".bin.index.json")));
    const bool text = !index && (p.ends_with(".json") || p.ends_with(".txt") || p.ends_with(".jinja") ||
                                 p.ends_with(".model") || p.ends_with(".tiktoken") || p.ends_with(".yaml"));
    if (weights || wanted_index || text || p.starts_with("LICENSE")) out.push_back(file);
  }
  return out;
}

}  // namespace sluice
