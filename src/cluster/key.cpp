// SPDX-License-Identifier: Apache-2.0
// Keys and the user's secret: 32 random bytes as 64 hex digits in private files.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>

#include "base/error.h"
#include "base/file.h"
#include "cluster/devices.h"
#include "cluster/endpoint.h"

namespace sluice {
namespace fs = std::filesystem;
namespace {

constexpr size_t kBytes = 32;

std::string random_hex() {
  unsigned char bytes[kBytes];
  size_t done = 0;
  while (done < kBytes) {
    const ssize_t n = ::getrandom(bytes + done, kBytes - done, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw Error(fmt::format("cannot draw random bytes for a key: {}", std::strerror(errno)));
    done += static_cast<size_t>(n);
  }
  std::string hex;
  for (const unsigned char byte : bytes) hex += fmt::format("{:02x}", byte);
  return hex;
}

}  // namespace

fs::path key_path(const fs::path& home, std::string_view id) {
  endpoint_path(home, id);  // refuses an id that is not one
  return home / "keys" / fmt::format("{}.key", id);
}

std::string read_key(const fs::path& path) {
  const File file = File::open_read(path);
  struct stat info {};
  if (::fstat(file.descriptor(), &info) != 0)
    throw Error(fmt::format("cannot look at {}: {}", path.string(), std::strerror(errno)));
  if (!S_ISREG(info.st_mode) || info.st_uid != ::geteuid() || (info.st_mode & 077) != 0) {
    throw Error(fmt::format(
        "{} is not a private file of yours (owner {}, mode {:04o}), expected mode 0600; remove it or run: chmod 600 {}",
        path.string(), info.st_uid, info.st_mode & 07777, path.string()));
  }
  std::string key(static_cast<size_t>(std::min<off_t>(info.st_size, 4096)), '\0');
  file.read_at(0, key.data(), key.size());
  while (!key.empty() && (key.back() == '\n' || key.back() == '\r' || key.back() == ' ')) key.pop_back();
  const bool hex =
      std::all_of(key.begin(), key.end(), [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
  if (key.size() != 2 * kBytes || !hex)
    throw Error(fmt::format("{} does not hold a key: expected {} hex digits, found {} characters; remove it",
                            path.string(), 2 * kBytes, key.size()));
  return key;
}

fs::path make_key(const fs::path& home, std::string_view id, bool keep) {
  fs::path path = key_path(home, id);
  make_private_folder(home);
  make_private_folder(home / "keys");
  std::error_code ignored;
  if (keep && fs::exists(path, ignored)) {
    read_key(path);
    return path;
  }
  replace_file(path, random_hex() + "\n", 0600);
  return path;
}

// Several ranks on several nodes may arrive at once. Each writes its own candidate whole and links it to the one name:
// link(2) succeeds for exactly one, also on NFS, where its reply may be lost, so the name is read back whatever it
// answered.
std::string user_secret(const fs::path& home) {
  make_private_folder(home);
  const fs::path path = home / "secret";
  std::error_code ignored;
  if (!fs::exists(path, ignored)) {
    static std::atomic<int> serial{0};
    const fs::path candidate = home / fmt::format("secret.{}.{}.{}", read_host_facts().host, ::getpid(), serial++);
    replace_file(candidate, random_hex() + "\n", 0600);
    const int linked = ::link(candidate.c_str(), path.c_str());
    int reason = linked == 0 ? 0 : errno;
    if (reason == EPERM || reason == EOPNOTSUPP ||
        reason == ENOSYS) {  // no hard links here: rename never replaces another rank's file
      reason = ::renameat2(AT_FDCWD, candidate.c_str(), AT_FDCWD, path.c_str(), RENAME_NOREPLACE) == 0 ? 0 : errno;
    }
    ::unlink(candidate.c_str());
    if (reason != 0 && reason != EEXIST && !fs::exists(path, ignored)) {
      throw Error(fmt::format("cannot make the secret {}: {}; set SLUICE_HOME to another file system", path.string(),
                              std::strerror(reason)));
    }
  }
  return read_key(path);
}

}  // namespace sluice
