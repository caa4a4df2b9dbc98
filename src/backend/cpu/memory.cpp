// SPDX-License-Identifier: Apache-2.0
#include "backend/cpu/memory.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <limits>
#include <string>

#include "base/error.h"

namespace sluice {
namespace {
constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kUnlimited = std::numeric_limits<size_t>::max();

// The number in a file of one line; kUnlimited when it is missing or says "max".
size_t number_in(const std::string& path) {
  std::ifstream file(path);
  size_t value = 0;
  return file >> value ? value : kUnlimited;
}

size_t system_available() {
  std::ifstream file("/proc/meminfo");
  std::string key;
  while (file >> key) {
    size_t kib = 0;
    if (key == "MemAvailable:" && file >> kib) return kib * 1024;
    file.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
  }
  return kUnlimited;
}

// File cache is charged to the group but given back under pressure.
size_t reclaimable(const std::string& stat_path) {
  std::ifstream file(stat_path);
  std::string key;
  size_t value = 0;
  while (file >> key >> value) {
    if (key == "inactive_file" || key == "total_inactive_file") return value;
  }
  return 0;
}

size_t group_left(const std::string& folder, const char* limit, const char* used) {
  const size_t most = number_in(folder + limit);
  if (most == kUnlimited) return kUnlimited;
  const size_t now = number_in(folder + used), spare = reclaimable(folder + "memory.stat");
  if (now == kUnlimited) return kUnlimited;
  const size_t held = now - std::min(now, spare);
  return most - std::min(most, held);
}

// The tightest memory cgroup on the path from this process's group to the root (versions 1 and 2).
size_t cgroup_available() {
  size_t least = kUnlimited;
  std::ifstream file("/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const bool v2 = controllers.empty();
    if (!v2 && controllers != "memory") continue;
    const std::string root = v2 ? "/sys/fs/cgroup" : "/sys/fs/cgroup/memory";
    for (std::string group = line.substr(second + 1);; group.resize(group.rfind('/'))) {
      if (group == "/") group.clear();
      const std::string folder = root + group + "/";
      least = std::min(least, v2 ? group_left(folder, "memory.max", "memory.current")
                                 : group_left(folder, "memory.limit_in_bytes", "memory.usage_in_bytes"));
      if (group.find('/') == std::string::npos) break;
    }
  }
  return least;
}
}  // namespace

size_t available_memory() { return std::min(system_available(), cgroup_available()); }

Buffer allocate_pages(size_t bytes) {
  if (bytes < kHugePage) return Buffer::host(bytes);
  const size_t available = available_memory();
  if (bytes > available) {
    throw Error(
        fmt::format("{:.2f} GiB of memory are needed and {:.2f} GiB are available to this process; use a smaller "
                    "model or cache, more ranks, or ask for more memory (--mem)",
                    static_cast<double>(bytes) / (1 << 30), static_cast<double>(available) / (1 << 30)));
  }
  // Mapped with room to begin on a huge page; what lies outside is given back.
  const size_t rounded = (bytes + kHugePage - 1) / kHugePage * kHugePage;
  void* mapped = mmap(nullptr, rounded + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED)
    throw Error(fmt::format("cannot map {} bytes of memory: {}", rounded, std::strerror(errno)));
  char* base = static_cast<char*>(mapped);
  const size_t skip = (kHugePage - reinterpret_cast<uintptr_t>(base) % kHugePage) % kHugePage;
  if (skip != 0) munmap(base, skip);
  munmap(base + skip + rounded, kHugePage - skip);
  char* data = base + skip;
  madvise(data, rounded, MADV_HUGEPAGE);
  return Buffer(data, bytes, [](void* p, size_t n) { munmap(p, (n + kHugePage - 1) / kHugePage * kHugePage); });
}

void* Scratch::reserve(size_t bytes) {
  if (bytes > buffer_.bytes()) buffer_ = Buffer::host(bytes + bytes / 4);
  return buffer_.data();
}

}  // namespace sluice
