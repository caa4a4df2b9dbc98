// SPDX-License-Identifier: Apache-2.0
#include "app/address.h"

#include <fmt/format.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <thread>

#include "base/error.h"
#include "base/file.h"
#include "cluster/endpoint.h"
#include "launch/jobs.h"

namespace sluice {
namespace {

bool digits(std::string_view text) {
  return !text.empty() && text.find_first_not_of("0123456789") == std::string_view::npos;
}

bool is_url(const std::string& text) {
  if (text.find("://") != std::string::npos) return true;
  const size_t colon = text.rfind(':');
  return colon != std::string::npos && colon > 0 && text.find('/') == std::string::npos &&
         digits(std::string_view(text).substr(colon + 1));
}

// "148", "148.2", "148_3", "local-4711".
bool is_job(const std::string& text) {
  std::string_view id = text;
  if (id.starts_with("local-")) return digits(id.substr(6));
  const size_t dot = id.find_first_of("._");
  return digits(id.substr(0, dot)) && (dot == std::string_view::npos || digits(id.substr(dot + 1)));
}

// A name of launch --name.
bool is_service(const std::string& text) {
  if (text.empty() || text.starts_with('.') || text.find('/') != std::string::npos) return false;
  try {
    return std::filesystem::is_directory(sluice_home(process_environment()) / "services" / text);
  } catch (const std::exception&) {  // no home
    return false;
  }
}

std::vector<JobView> read_jobs(const std::filesystem::path& home) {
  return reconcile(list_endpoints(home), read_queue(run_command), local_facts());
}

Url job_address(const std::string& name, Way& way, std::string& key) {
  const std::filesystem::path home = sluice_home(process_environment());
  for (std::string told;;) {
    const JobView job = find_job(read_jobs(home), name);
    require_going(job);
    const bool ready = job.state == "ready" || job.state == "draining" || job.state == "unconfirmed";
    if (ready && !job.url.empty()) {
      if (key.empty() && !job.key_file.empty()) key = read_key(job.key_file);
      return way.to(job);
    }
    const std::string now =
        fmt::format("job {} is {}{}", job.id, job.state, job.detail.empty() ? "" : ": " + job.detail);
    if (now != told) fmt::print(stderr, "{}; waiting for it (Ctrl-C leaves)\n", now);
    told = now;
    std::this_thread::sleep_for(std::chrono::seconds(2));
  }
}

// The key of the user's own server at this very address.
std::string own_key(const Url& url) {
  try {
    for (const Endpoint& record : list_endpoints(sluice_home(process_environment())))
      if (record.state != EndpointState::kStopped && !record.key_file.empty() &&
          Url::parse(record.url).text() == url.text())
        return read_key(record.key_file);
  } catch (const Error&) {  // no home, or a record of somebody else's: the address is just an address
  }
  return {};
}

}  // namespace

bool names_server(const std::string& text) {
  return is_url(text) || ((is_job(text) || is_service(text)) && !std::filesystem::exists(text));
}

std::string read_key_file(const std::string& path) {
  std::string key = path.empty() ? "" : read_file(path);
  while (!key.empty() && (key.back() == '\n' || key.back() == '\r' || key.back() == ' ')) key.pop_back();
  return key;
}

ServerFinder::ServerFinder(std::string name, std::string key_file, const std::string& via)
    : name_(std::move(name)), key_file_(std::move(key_file)), way_(via) {
  if (!via.empty() && is_url(name_))
    throw Error(
        fmt::format("--via {}: it leads to a job's node, and {} is an address; name the job, or open the way "
                    "with ssh -L",
                    via, name_));
}

Url ServerFinder::find(std::string& key) {
  key = read_key_file(key_file_);
  if (!is_url(name_)) return job_address(name_, way_, key);
  Url url = Url::parse(name_);
  if (url.path.ends_with("/v1")) url.path.resize(url.path.size() - 3);  // as OPENAI_BASE_URL has it
  if (key.empty()) key = own_key(url);
  if (const char* words = std::getenv("OPENAI_API_KEY"); key.empty() && words != nullptr) key = words;
  return url;
}

}  // namespace sluice
