// SPDX-License-Identifier: Apache-2.0
#include "cluster/endpoint.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/error.h"
#include "base/file.h"

namespace sluice {
namespace fs = std::filesystem;
namespace {

constexpr EndpointState kStates[] = {EndpointState::kLoading, EndpointState::kReady, EndpointState::kDraining,
                                     EndpointState::kStopped};

void check_id(std::string_view id) {
  const bool plain = !id.empty() && id[0] != '.' && std::all_of(id.begin(), id.end(), [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '-' || c == '_';
  });
  if (!plain) throw Error(fmt::format("'{}' is not a run id: expected a job id such as 1234, or local-5678", id));
}

Endpoint parse(const fs::path& path, const std::string& text) {
  try {
    const auto json = nlohmann::json::parse(text);
    Endpoint e;
    e.id = json.at("id").get<std::string>();
    const std::string state = json.at("state").get<std::string>();
    const auto known = std::find_if(std::begin(kStates), std::end(kStates),
                                    [&](EndpointState s) { return state == endpoint_state_name(s); });
    if (known == std::end(kStates))
      throw Error(
          fmt::format("{}: unknown state '{}', expected loading, ready, draining or stopped", path.string(), state));
    e.state = *known;
    e.url = json.at("url").get<std::string>();
    e.host = json.at("host").get<std::string>();
    e.port = json.at("port").get<int>();
    e.loopback = json.value("loopback", false);
    e.job_id = json.at("job_id").get<std::string>();
    e.task = json.value("task", std::string());
    e.model = json.at("model").get<std::string>();
    e.key_file = json.at("key_file").get<std::string>();
    e.log = json.value("log", std::string());
    e.service = json.value("service", std::string());
    e.pid = json.at("pid").get<int64_t>();
    e.start_time = json.at("start_time").get<double>();
    e.end_time = json.at("end_time").get<double>();
    e.restart_count = json.at("restart_count").get<int>();
    e.reason = json.at("reason").get<std::string>();
    return e;
  } catch (const nlohmann::json::exception& error) {
    throw Error(fmt::format("{} is not an endpoint record ({}); remove it", path.string(), error.what()));
  }
}

}  // namespace

const char* endpoint_state_name(EndpointState state) {
  switch (state) {
    case EndpointState::kLoading:
      return "loading";
    case EndpointState::kReady:
      return "ready";
    case EndpointState::kDraining:
      return "draining";
    case EndpointState::kStopped:
      return "stopped";
  }
  fatal("unknown endpoint state");
}

fs::path sluice_home(const Environment& environment) {
  for (const auto& [name, under] : {std::pair{"SLUICE_HOME", ""}, std::pair{"HOME", ".sluice"}}) {
    const char* value = environment(name);
    if (value == nullptr || *value == '\0') continue;
    if (*value != '/') throw Error(fmt::format("{}='{}': expected an absolute path", name, value));
    return *under == '\0' ? fs::path(value) : fs::path(value) / under;
  }
  throw Error("neither SLUICE_HOME nor HOME is set: set SLUICE_HOME to a folder of your own that all nodes see");
}

fs::path endpoint_path(const fs::path& home, std::string_view id) {
  check_id(id);
  return home / "jobs" / fmt::format("{}.json", id);
}

void write_endpoint(const fs::path& home, const Endpoint& e) {
  const fs::path path = endpoint_path(home, e.id);
  make_private_folder(home);
  make_private_folder(home / "jobs");
  const nlohmann::ordered_json json = {{"id", e.id},
                                       {"state", endpoint_state_name(e.state)},
                                       {"url", e.url},
                                       {"host", e.host},
                                       {"port", e.port},
                                       {"loopback", e.loopback},
                                       {"job_id", e.job_id},
                                       {"task", e.task},
                                       {"model", e.model},
                                       {"key_file", e.key_file},
                                       {"log", e.log},
                                       {"service", e.service},
                                       {"pid", e.pid},
                                       {"start_time", e.start_time},
                                       {"end_time", e.end_time},
                                       {"restart_count", e.restart_count},
                                       {"reason", e.reason}};
  // A reason may hold bytes of a path or a peer that are not UTF-8.
  replace_file(path, json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n", 0600);
}

std::optional<Endpoint> read_endpoint(const fs::path& home, std::string_view id) {
  const fs::path path = endpoint_path(home, id);
  for (int attempt = 0;; ++attempt) {
    struct stat info {};
    if (::lstat(path.c_str(), &info) != 0) {
      if (errno == ENOENT || errno == ENOTDIR) return std::nullopt;
      if (errno != ESTALE || attempt == 4)
        throw Error(fmt::format("cannot look at {}: {}", path.string(), std::strerror(errno)));
    } else {
      if (!S_ISREG(info.st_mode) || info.st_uid != ::geteuid() || (info.st_mode & 077) != 0) {
        throw Error(
            fmt::format("{} is not a private file of yours (owner {}, mode {:04o}), expected mode 0600; remove it",
                        path.string(), info.st_uid, info.st_mode & 07777));
      }
      std::optional<std::string> text;
      try {
        text = read_file(path);
      } catch (const Error&) {  // replaced or gone between the two calls: look again
        if (attempt == 4) throw;
      }
      if (text) {
        Endpoint endpoint = parse(path, *text);
        if (endpoint.id != id)
          throw Error(fmt::format("{} holds the record of '{}'; remove it", path.string(), endpoint.id));
        return endpoint;
      }
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(50 << attempt));
  }
}

std::vector<Endpoint> list_endpoints(const fs::path& home) {
  std::vector<Endpoint> found;
  std::error_code error;
  for (fs::directory_iterator it(home / "jobs", error), end; !error && it != end; it.increment(error)) {
    if (it->path().extension() != ".json") continue;
    try {
      if (auto endpoint = read_endpoint(home, it->path().stem().string())) found.push_back(std::move(*endpoint));
    } catch (const Error&) {
      continue;  // one broken record must not hide the others; read_endpoint() of its id says what is wrong
    }
  }
  std::sort(found.begin(), found.end(),
            [](const Endpoint& a, const Endpoint& b) { return a.start_time > b.start_time; });
  return found;
}

}  // namespace sluice
