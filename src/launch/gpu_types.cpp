// SPDX-License-Identifier: Apache-2.0
#include "launch/gpu_types.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <map>

#include "base/error.h"

namespace sluice {

// Memory as the driver reports it, less than the name says; bandwidths are the makers' figures.
const std::vector<GpuType>& gpu_types() {
  static const std::vector<GpuType> types = {
      {"t4", "t4", 14.7, 320, false, false},
      {"v100:16", "v100", 15.8, 900, false, false},
      {"v100:32", "v100l", 31.7, 900, false, false},
      {"rtx8000", "rtx8000", 47.5, 672, false, false},
      {"a10", "a10", 22.0, 600},
      {"a40", "a40", 44.6, 696},
      {"a6000", "a6000", 47.5, 768},
      {"l4", "l4", 22.0, 300},
      {"l40s", "l40s", 44.5, 864},
      {"rtx4090", "rtx4090", 23.5, 1008},
      {"a100:40", "a100", 39.4, 1555},
      {"a100:80", "a100l", 79.1, 2039},
      {"h100:80", "h100", 79.1, 3350},
      {"h200", "h200", 139.8, 4800},
      {"gh200", "gh200", 94.5, 4000},
      {"a100:40/1g.5gb", "a100_1g.5gb", 4.75, 194, true},
      {"a100:40/2g.10gb", "a100_2g.10gb", 9.5, 389, true},
      {"a100:40/3g.20gb", "a100_3g.20gb", 19.5, 777, true},
      {"a100:40/4g.20gb", "a100_4g.20gb", 19.5, 777, true},
      {"a100:80/1g.10gb", "a100_1g.10gb", 9.5, 255, true},
      {"a100:80/2g.20gb", "a100l.2", 19.5, 510, true},
      {"a100:80/3g.40gb", "a100l.3", 39.2, 1019, true},
      {"a100:80/4g.40gb", "a100l.4", 39.2, 1019, true},
      {"h100:80/1g.10gb", "h100_1g.10gb", 9.6, 419, true},
      {"h100:80/2g.20gb", "h100_2g.20gb", 19.5, 838, true},
      {"h100:80/3g.40gb", "h100_3g.40gb", 39.4, 1675, true},
  };
  return types;
}

namespace {
// Lower case, without "gb", with ':' between name and size.
std::string normal(std::string name) {
  std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::tolower(c); });
  const size_t slash = name.find('/');
  std::string head = name.substr(0, slash), tail = slash == name.npos ? std::string() : name.substr(slash);
  // As Slurm names what it finds by itself: nvidia_a100-sxm4-80gb, nvidia_h100_80gb_hbm3.
  if (head.starts_with("nvidia_")) {
    head.erase(0, 7);
    std::replace(head.begin(), head.end(), '_', '-');
    for (const char* part : {"-sxm5", "-sxm4", "-sxm2", "-pcie", "-hbm3", "-hbm2e", "-nvl"})
      if (const size_t at = head.find(part); at != head.npos) head.erase(at, std::string_view(part).size());
  }
  if (head.ends_with("gb")) head.resize(head.size() - 2);
  std::replace(head.begin(), head.end(), '-', ':');
  static const std::map<std::string, std::string> aliases = {
      {"a100", "a100:40"},  {"a100l", "a100:80"},      {"h100", "h100:80"}, {"v100", "v100:16"},
      {"v100l", "v100:32"}, {"h200:141", "h200"},      {"a40:48", "a40"},   {"a10:24", "a10"},
      {"l40s:48", "l40s"},  {"rtx8000:48", "rtx8000"}, {"t4:16", "t4"}};
  const auto alias = aliases.find(head);
  return (alias == aliases.end() ? head : alias->second) + tail;
}
}  // namespace

GpuType find_gpu(const std::string& name) {
  const std::string wanted = normal(name);
  for (const GpuType& type : gpu_types()) {
    if (type.name == wanted || type.gres == name) return type;
  }
  // NAME:GIB
  const size_t colon = name.rfind(':');
  double gib = 0;
  if (colon != name.npos && colon > 0) {
    const auto [end, error] = std::from_chars(name.data() + colon + 1, name.data() + name.size(), gib);
    if (error == std::errc() && end == name.data() + name.size() && gib >= 1 && gib < 4096) {
      return {name, name.substr(0, colon), gib, 0};
    }
  }
  std::string known;
  for (const GpuType& type : gpu_types()) known += (known.empty() ? "" : ", ") + type.name;
  throw Error(fmt::format("GPU '{}' is not known; known are {}; any other as NAME:GIB", name, known));
}

}  // namespace sluice
