// SPDX-License-Identifier: Apache-2.0
#include "app/doctor_facts.h"

#include <arpa/inet.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <mutex>
#include <set>
#include <thread>

#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/module.h"
#include "cluster/command.h"
#include "cluster/placement.h"
#include "cluster/port.h"
#include "hub/cache.h"
#include "hub/transfer.h"
#include "launch/submit.h"

namespace sluice {
namespace fs = std::filesystem;
namespace {
constexpr double kAskSeconds = 10;

const char* variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

bool module_there(const char* file, const char* where) {
  std::error_code error;
  const auto paths = module_paths(file, where);
  return std::any_of(paths.begin(), paths.end(), [&](const fs::path& path) { return fs::exists(path, error); });
}

// Type of the mount that holds `path`, by the longest mount point before it.
std::string mount_type(const fs::path& path) {
  std::ifstream mounts("/proc/self/mounts");
  std::string device, point, type, rest, best, best_type = "unknown";
  const std::string wanted = path.string();
  while (mounts >> device >> point >> type && std::getline(mounts, rest)) {
    const bool below = wanted == point || wanted.starts_with(point == "/" ? point : point + "/");
    if (below && point.size() >= best.size()) best = point, best_type = type;
  }
  return best_type;
}

// Ends a transfer once its head is there.
struct HeadOnly : GetListener {
  GetResult result;
  bool ended = false;
  bool on_headers(const GetResult& so_far) override {
    result = so_far;
    return false;
  }
  bool on_data(const char*, size_t) override { return false; }
  void on_end(const GetResult& end) override {
    if (result.status == 0) result = end;
    ended = true;
  }
};
}  // namespace

GpuFacts read_gpu_facts() {
  GpuFacts facts;
  if (const char* value = std::getenv("CUDA_VISIBLE_DEVICES"); value != nullptr) {
    facts.variable = true;
    facts.visible = parse_visible_devices(value);
  }
  std::error_code error;
  for (fs::directory_iterator it("/dev", error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (name.starts_with("nvidia") && name.size() > 6 && std::isdigit(static_cast<unsigned char>(name[6])))
      ++facts.devices;
  }
  void* driver = ::dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
  facts.driver = driver != nullptr;
  if (driver != nullptr) ::dlclose(driver);
  facts.module = module_there("sluice_cuda.so", "SLUICE_CUDA_MODULE");
  return facts;
}

MpiFacts read_mpi_facts() {
  MpiFacts facts;
  facts.site = variable("SITE_MPI");
  if (!module_there("sluice_mpi.so", "SLUICE_MPI_MODULE")) {
    facts.module_error = "this program has no MPI module (sluice_mpi.so) beside it";
  } else {
    try {
      fs::path found;
      open_module(module_paths("sluice_mpi.so", "SLUICE_MPI_MODULE"), true, found);
    } catch (const Error& error) {
      facts.module_error = error.what();
    }
  }
  const auto listed = run_with_errors(run_command, {"srun", "--mpi=list"}, kAskSeconds);
  if (!listed || listed->exit_code == 127) return facts;
  if (listed->exit_code != 0) {
    const size_t fatal = listed->output.rfind("srun: ");
    facts.srun_error = listed->output.substr(fatal == std::string::npos ? 0 : fatal);
    return facts;
  }
  facts.listed = listed->output;
  const auto config = run_command({"scontrol", "show", "config"}, kAskSeconds);
  if (!config || config->exit_code != 0) return facts;
  const size_t at = config->output.find("\nMpiDefault ");
  if (at == std::string::npos) return facts;
  const size_t begin = config->output.find("= ", at);
  facts.by_default = config->output.substr(begin + 2, config->output.find('\n', begin) - begin - 2);
  return facts;
}

std::vector<Interface> read_interfaces() {
  std::vector<Interface> out;
  ifaddrs* list = nullptr;
  if (::getifaddrs(&list) != 0) return out;
  for (const ifaddrs* one = list; one != nullptr; one = one->ifa_next) {
    if (one->ifa_addr == nullptr || one->ifa_addr->sa_family != AF_INET) continue;
    Interface i;
    i.name = one->ifa_name;
    char text[INET_ADDRSTRLEN] = "";
    ::inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in*>(one->ifa_addr)->sin_addr, text, sizeof text);
    i.address = text;
    i.up = (one->ifa_flags & IFF_UP) != 0;
    i.loopback = (one->ifa_flags & IFF_LOOPBACK) != 0;
    i.infiniband = i.name.starts_with("ib") || i.name.starts_with("hsn");
    std::ifstream speed("/sys/class/net/" + i.name + "/speed");
    if (!(speed >> i.mbps) || i.mbps < 0) i.mbps = 0;
    out.push_back(i);
  }
  ::freeifaddrs(list);
  return out;
}

std::vector<std::string> resolve_name(const std::string& host) {
  addrinfo hints{}, *found = nullptr;
  hints.ai_family = AF_INET;
  hints.ai_socktype = SOCK_STREAM;
  std::vector<std::string> out;
  if (::getaddrinfo(host.c_str(), nullptr, &hints, &found) != 0) return out;
  for (const addrinfo* one = found; one != nullptr; one = one->ai_next) {
    char text[INET_ADDRSTRLEN] = "";
    ::inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in*>(one->ai_addr)->sin_addr, text, sizeof text);
    out.emplace_back(text);
  }
  ::freeaddrinfo(found);
  return out;
}

std::vector<uint16_t> free_ports(const std::vector<uint16_t>& wanted, size_t most) {
  std::vector<uint16_t> out;
  for (const uint16_t port : wanted) {
    if (out.size() >= most) break;
    try {
      const Listener listener = listen_first("0.0.0.0", {port}, 1, "doctor");
      ::close(listener.fd);
      out.push_back(port);
    } catch (const Error&) {
      continue;
    }
  }
  return out;
}

FolderFacts read_folder(const std::string& name, const fs::path& path, bool shared, bool make) {
  FolderFacts facts;
  facts.name = name, facts.path = path.string(), facts.shared = shared;
  std::error_code error;
  if (make && !fs::exists(path, error)) {
    try {
      make_private_folder(path);
    } catch (const Error&) {
    }
  }
  // Of a cache that no download has made yet the folder above tells.
  fs::path there = path;
  while (!fs::exists(there, error) && there.has_parent_path() && there != there.root_path())
    there = there.parent_path();
  facts.exists = make ? fs::is_directory(path, error) : fs::is_directory(there, error);
  if (!facts.exists) return facts;
  facts.type = mount_type(fs::canonical(there, error));
  struct statvfs space {};
  if (::statvfs(there.c_str(), &space) == 0) {
    facts.free_bytes = static_cast<double>(space.f_bavail) * static_cast<double>(space.f_frsize);
    if (space.f_files > 0) facts.free_files = static_cast<double>(space.f_favail);
  }
  std::string probe = (there / ".sluice-doctor-XXXXXX").string();
  const int fd = ::mkstemp(probe.data());
  if (fd < 0) return facts;
  // A quota may refuse what the file system has room for.
  const std::string block(1 << 16, 'x');
  facts.writable = ::write(fd, block.data(), block.size()) == static_cast<ssize_t>(block.size()) && ::fsync(fd) == 0;
  struct stat info {};
  if (::fstat(fd, &info) == 0)
    facts.skew =
        static_cast<double>(info.st_mtim.tv_sec) + 1e-9 * static_cast<double>(info.st_mtim.tv_nsec) - wall_seconds();
  ::close(fd);
  ::unlink(probe.c_str());
  return facts;
}

std::vector<KeyFacts> read_key_facts(const fs::path& home) {
  std::vector<KeyFacts> out;
  std::set<fs::path> places = {home, home / "secret"};
  std::error_code error;
  for (const char* folder : {"jobs", "keys", "services"}) {
    places.insert(home / folder);
    for (fs::directory_iterator it(home / folder, error), end; !error && it != end; it.increment(error))
      places.insert(it->path());
  }
  for (const fs::path& place : places) {
    struct stat info {};
    if (::lstat(place.c_str(), &info) != 0 || S_ISLNK(info.st_mode)) continue;
    out.push_back({place.string(), info.st_mode & 07777u, info.st_uid == ::geteuid(), S_ISDIR(info.st_mode)});
  }
  return out;
}

InternetFacts read_internet(double seconds) {
  InternetFacts facts;
  const HubSettings hub = read_hub_settings([](const char* name) -> const char* { return std::getenv(name); });
  facts.url = hub.endpoint, facts.offline = hub.offline;
  for (const char* name : {"https_proxy", "HTTPS_PROXY", "all_proxy", "http_proxy"})
    if (facts.proxy.empty()) facts.proxy = variable(name);
  // A proxy's name and password are nobody's business.
  if (const size_t at = facts.proxy.find('@'); at != facts.proxy.npos) facts.proxy.erase(0, at + 1);
  const double started = monotonic_seconds();
  // On a thread of its own: a name server that does not answer may hold the resolver longer than the limit.
  struct Shared {
    std::mutex mutex;
    std::condition_variable changed;
    GetResult result;
    bool ended = false;
  };
  const auto shared = std::make_shared<Shared>();
  std::thread([shared, url = facts.url, seconds, started] {
    Transfers transfers;
    HeadOnly head;
    transfers.start({.url = url, .bearer = {}, .first = 0, .last = -1}, head);
    while (!head.ended && monotonic_seconds() - started < seconds) transfers.poll(100);
    transfers.stop();
    const std::lock_guard lock(shared->mutex);
    shared->result = head.result, shared->ended = true;
    shared->changed.notify_all();
  }).detach();
  std::unique_lock lock(shared->mutex);
  shared->changed.wait_for(lock, std::chrono::duration<double>(seconds + 0.3), [&] { return shared->ended; });
  facts.status = shared->result.status;
  facts.error =
      !shared->result.error.empty() ? shared->result.error : fmt::format("no answer within {:.0f} s", seconds);
  facts.seconds = monotonic_seconds() - started;
  return facts;
}

LimitFacts read_limits() {
  LimitFacts facts;
  rlimit limit{};
  const auto soft = [&](auto what) -> int64_t {
    if (::getrlimit(what, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return -1;
    return static_cast<int64_t>(limit.rlim_cur);
  };
  facts.files = soft(RLIMIT_NOFILE);
  facts.files_hard = limit.rlim_max == RLIM_INFINITY ? -1 : static_cast<int64_t>(limit.rlim_max);
  facts.processes = soft(RLIMIT_NPROC);
  const int64_t locked = soft(RLIMIT_MEMLOCK);
  facts.locked_kb = locked < 0 ? -1 : locked / 1024;
  return facts;
}

int cpus_of_machine() { return static_cast<int>(::sysconf(_SC_NPROCESSORS_ONLN)); }

}  // namespace sluice
