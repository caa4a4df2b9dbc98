// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <string>

#include "backend/cpu/panel_weight.h"
#include "base/error.h"

namespace sluice {
namespace {

size_t read_number(const char* path, size_t otherwise) {
  std::ifstream in(path);
  std::string text;
  size_t value = 0;
  if (!(in >> text)) return otherwise;
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() ? value : otherwise;  // "max" means no limit
}

}  // namespace

size_t available_memory() {
  size_t free = size_t{1} << 62;
  std::ifstream info("/proc/meminfo");
  for (std::string name, unit; info >> name;) {
    size_t kib = 0;
    if (!(info >> kib)) break;
    std::getline(info, unit);
    if (name == "MemAvailable:") free = kib * 1024;
  }
  constexpr size_t kNone = size_t{1} << 62;
  const std::pair<const char*, const char*> groups[] = {
      {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"},
      {"/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"}};
  for (const auto& [limit, used] : groups) {
    const size_t most = read_number(limit, kNone), now = read_number(used, 0);
    if (most < kNone) free = std::min(free, most > now ? most - now : 0);
  }
  return free;
}

Buffer allocate_pages(size_t bytes) {
  constexpr size_t kHuge = size_t{2} << 20;
  const size_t rounded = std::max<size_t>((bytes + 4095) / 4096 * 4096, 4096);
  if (rounded > (size_t{64} << 20) && rounded > available_memory()) {
    throw Error(
        fmt::format("not enough memory: {:.2f} GB are needed and {:.2f} GB are free; ask for more (--mem), use more "
                    "ranks or a smaller dtype or cache",
                    static_cast<double>(bytes) * 1e-9, static_cast<double>(available_memory()) * 1e-9));
  }
  void* data = ::mmap(nullptr, rounded, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED)
    throw Error(
        fmt::format("the system refused {:.2f} GB of memory; ask for more (--mem)", static_cast<double>(bytes) * 1e-9));
  if (rounded >= kHuge) ::madvise(data, rounded, MADV_HUGEPAGE);
  return Buffer(data, bytes, [](void* p, size_t n) { ::munmap(p, std::max<size_t>((n + 4095) / 4096 * 4096, 4096)); });
}

}  // namespace sluice
