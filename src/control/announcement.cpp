// SPDX-License-Identifier: Apache-2.0
#include "control/announcement.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <charconv>
#include <fstream>

#include "base/clock.h"
#include "base/file.h"

namespace sluice {
namespace {
// What rank 0 has left that was killed while it waited: no formation takes a day.
void remove_old(const std::filesystem::path& folder) {
  constexpr double kOld = 86400;
  std::error_code error;
  for (std::filesystem::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    struct stat info {};
    std::error_code ignored;
    if (::stat(it->path().c_str(), &info) == 0 && wall_seconds() - static_cast<double>(info.st_mtime) > kOld)
      std::filesystem::remove(it->path(), ignored);
  }
}
}  // namespace

std::filesystem::path announcement_path(const std::filesystem::path& home, std::string_view run) {
  std::string name;
  for (const char c : run) {
    const bool plain =
        (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '.' || c == '-';
    name += plain ? std::string(1, c) : fmt::format("_{:02x}", static_cast<unsigned char>(c));
  }
  return home / "rendezvous" / ("run-" + name);
}

void write_announcement(const std::filesystem::path& path, const Announcement& announcement) {
  make_private_folder(path.parent_path());
  remove_old(path.parent_path());
  std::string text = fmt::format("sluice-rendezvous 1\nhost {}\nboot {}\nport {}\n", announcement.host,
                                 announcement.boot_id, announcement.port);
  for (const auto& address : announcement.addresses) text += "address " + address + "\n";
  replace_file(path, text, 0600);
}

std::optional<Announcement> read_announcement(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::string key, value;
  Announcement found;
  if (!(file >> key >> value) || key != "sluice-rendezvous" || value != "1") return std::nullopt;
  while (file >> key && std::getline(file, value)) {
    if (!value.empty()) value.erase(0, 1);
    if (key == "host")
      found.host = value;
    else if (key == "boot")
      found.boot_id = value;
    else if (key == "address")
      found.addresses.push_back(value);
    else if (key == "port")
      std::from_chars(value.data(), value.data() + value.size(), found.port);
  }
  if (found.port == 0) return std::nullopt;
  return found;
}

}  // namespace sluice
