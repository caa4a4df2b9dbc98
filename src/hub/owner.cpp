// SPDX-License-Identifier: Apache-2.0
#include "hub/owner.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "cluster/devices.h"

namespace sluice {
namespace fs = std::filesystem;
namespace {
constexpr double kLookSeconds = 0.3;

// "host boot-id pid job"
std::string own_line() {
  const HostFacts facts = read_host_facts();
  const char* job = std::getenv("SLURM_JOB_ID");
  return fmt::format("{} {} {} {}\n", facts.host, facts.boot_id.empty() ? "-" : facts.boot_id, ::getpid(),
                     job == nullptr ? "-" : job);
}

std::string word(const std::string& line, int index) {
  size_t begin = 0;
  for (; index > 0; --index) {
    begin = line.find(' ', begin);
    if (begin == line.npos) return {};
    ++begin;
  }
  return line.substr(begin, line.find_first_of(" \n", begin) - begin);
}

bool dead_on_this_host(const std::string& line, const std::string& own) {
  if (word(line, 0) != word(own, 0) || word(line, 1) != word(own, 1)) return false;
  const std::string text = word(line, 2);
  int pid = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), pid);
  return error == std::errc() && pid > 0 && ::kill(pid, 0) != 0 && errno == ESRCH;
}

struct Seen {
  std::string line;
  int64_t seconds = 0, nanoseconds = 0;
  bool operator==(const Seen&) const = default;
};
bool look(const fs::path& path, Seen& seen) {
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) return false;
  try {
    seen.line = read_file(path);
  } catch (const Error&) {
    return false;
  }
  seen.seconds = info.st_mtim.tv_sec, seen.nanoseconds = info.st_mtim.tv_nsec;
  return true;
}
}  // namespace

RepoOwner::RepoOwner(const fs::path& folder, double stale_seconds,
                     const std::function<void(const std::string&)>& waiting, const std::function<bool()>& stop)
    : path_(folder / "owner"), content_(own_line()) {
  fs::create_directories(folder);
  Seen last;
  double since = monotonic_seconds();
  while (true) {
    const int fd = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (fd >= 0) {
      const bool written = ::write(fd, content_.data(), content_.size()) == static_cast<ssize_t>(content_.size());
      ::close(fd);
      if (!written) throw Error(fmt::format("cannot write {}: {}", path_.string(), std::strerror(errno)));
      return;
    }
    if (errno != EEXIST) throw Error(fmt::format("cannot make {}: {}", path_.string(), std::strerror(errno)));
    Seen now;
    if (!look(path_, now)) continue;
    if (!(now == last)) last = now, since = monotonic_seconds();
    if (dead_on_this_host(now.line, content_) || monotonic_seconds() - since > stale_seconds) {
      // Of several that take over, one renames the dead owner's file; what was renamed by mistake goes back.
      const fs::path aside = path_.string() + fmt::format(".{}", ::getpid());
      if (::rename(path_.c_str(), aside.c_str()) == 0) {
        Seen moved;
        if (look(aside, moved) && moved.line != now.line) ::link(aside.c_str(), path_.c_str());
        ::unlink(aside.c_str());
      }
      continue;
    }
    if (!waited_)
      waiting(fmt::format("process {} on {}, job {}", word(now.line, 2), word(now.line, 0), word(now.line, 3)));
    waited_ = true;
    if (stop()) throw Error("stopped while another process was downloading");
    std::this_thread::sleep_for(std::chrono::duration<double>(kLookSeconds));
  }
}

RepoOwner::~RepoOwner() {
  Seen seen;
  if (look(path_, seen) && seen.line == content_) ::unlink(path_.c_str());
}

void RepoOwner::touch() { ::utimensat(AT_FDCWD, path_.c_str(), nullptr, 0); }

}  // namespace sluice
