// SPDX-License-Identifier: Apache-2.0
// POSIX ustar and pax, and GNU's long names and large sizes.
#include "weights/tar.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

#include "base/error.h"

namespace sluice {
namespace {
constexpr uint64_t kBlock = 512, kMaxText = 1 << 20, kMaxMembers = 1 << 20;

[[noreturn]] void refuse(const FileRange& range, const std::string& what) {
  throw Error(fmt::format("{}: {}; expected a tar archive, copy or download it again", range.name, what));
}

uint64_t parse_octal(const FileRange& range, const char* field, size_t n) {
  const auto* bytes = reinterpret_cast<const unsigned char*>(field);
  uint64_t value = 0;
  if ((bytes[0] & 0x80) != 0) {  // GNU: big-endian binary
    for (size_t i = 1; i < n; ++i) {
      if (value >> 48 != 0) refuse(range, "a size without bounds");
      value = value << 8 | bytes[i];
    }
    return value;
  }
  for (size_t i = 0; i < n && field[i] != '\0' && field[i] != ' '; ++i) {
    if (field[i] < '0' || field[i] > '7') refuse(range, "a damaged header");
    value = value << 3 | static_cast<uint64_t>(field[i] - '0');
  }
  return value;
}

std::string text_field(const char* field, size_t n) { return {field, strnlen(field, n)}; }

// "LENGTH KEY=VALUE\n" records of a pax header.
void read_pax(const FileRange& range, std::string_view text, std::string& path, uint64_t& size, bool& has_size) {
  while (!text.empty()) {
    size_t length = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), length);
    const auto digits = static_cast<size_t>(end - text.data());
    if (error != std::errc() || length <= digits + 1 || length > text.size()) refuse(range, "a damaged pax header");
    const std::string_view record = text.substr(digits + 1, length - digits - 2);
    const size_t equals = record.find('=');
    if (equals == std::string_view::npos) refuse(range, "a damaged pax header");
    const std::string_view key = record.substr(0, equals), value = record.substr(equals + 1);
    if (key == "path") path = value;
    if (key == "size") {
      if (std::from_chars(value.data(), value.data() + value.size(), size).ec != std::errc())
        refuse(range, "a damaged pax header");
      has_size = true;
    }
    text.remove_prefix(length);
  }
}

std::string safe_name(const FileRange& range, std::string name) {
  while (name.starts_with("./")) name.erase(0, 2);
  const std::filesystem::path path(name);
  bool unsafe = name.starts_with('/') || name.find('\0') != std::string::npos;
  for (const auto& part : path) unsafe = unsafe || part == "..";
  if (unsafe) throw Error(fmt::format("{}: the member {} leads out of the archive; it is not read", range.name, name));
  return name;
}

int temporary_file() {
  const char* folder = std::getenv("TMPDIR");
  const std::string where = folder != nullptr && *folder != '\0' ? folder : "/tmp";
  std::string name = where + "/sluice-unpack-XXXXXX";
  const int fd = ::mkostemp(name.data(), O_CLOEXEC);
  if (fd < 0)
    throw Error(fmt::format("cannot make a temporary file in {}: {}; set TMPDIR", where, std::strerror(errno)));
  ::unlink(name.c_str());
  return fd;
}

// What `path` unpacks to, in a temporary file.
int inflate(const std::filesystem::path& path) {
  const int fd = temporary_file();
  const gzFile in = ::gzopen(path.c_str(), "rb");
  std::vector<char> chunk(size_t{4} << 20);
  std::string failure = in == nullptr ? "cannot open it" : "";
  while (failure.empty()) {
    const int n = ::gzread(in, chunk.data(), static_cast<unsigned>(chunk.size()));
    if (n <= 0) {
      int code = Z_OK;
      const char* why = ::gzerror(in, &code);
      if (n < 0 || code != Z_OK) failure = why;
      break;
    }
    for (int done = 0; done < n && failure.empty();) {
      const ssize_t now = ::write(fd, chunk.data() + done, static_cast<size_t>(n - done));
      if (now <= 0) failure = fmt::format("no room to unpack it ({}); set TMPDIR", std::strerror(errno));
      done += static_cast<int>(std::max<ssize_t>(now, 0));
    }
  }
  if (in != nullptr && ::gzclose(in) != Z_OK && failure.empty()) failure = "it is cut off";
  if (!failure.empty()) {
    ::close(fd);
    throw Error(fmt::format("{} is compressed by gzip and does not unpack: {}", path.string(), failure));
  }
  return fd;
}
}  // namespace

std::vector<TarMember> read_tar(const FileRange& range) {
  std::vector<TarMember> out;
  std::string long_name;
  uint64_t pax_size = 0;
  bool has_size = false;
  for (uint64_t at = 0; at + kBlock <= range.bytes;) {
    char header[kBlock];
    range.read_at(at, header, kBlock);
    at += kBlock;
    if (std::all_of(header, header + kBlock, [](char c) { return c == '\0'; })) break;
    uint64_t sum = 8 * ' ';
    for (size_t i = 0; i < kBlock; ++i) sum += i >= 148 && i < 156 ? 0 : static_cast<unsigned char>(header[i]);
    if (parse_octal(range, header + 148, 8) != sum) refuse(range, "a header whose checksum is wrong");
    uint64_t size = parse_octal(range, header + 124, 12);
    const char type = header[156];
    const bool text = type == 'L' || type == 'x' || type == 'g';
    if (!text && has_size) size = pax_size;
    if (size > range.bytes - at) refuse(range, "it is cut off");
    if (text) {
      if (size > kMaxText) refuse(range, "a header of more than 1 MiB");
      std::string content(static_cast<size_t>(size), '\0');
      range.read_at(at, content.data(), content.size());
      if (type == 'L') long_name = content.c_str();
      if (type == 'x') read_pax(range, content, long_name, pax_size, has_size);
    } else {
      std::string name = text_field(header, 100);
      const std::string prefix = text_field(header + 345, 155);
      if (std::memcmp(header + 257, "ustar\0", 6) == 0 && !prefix.empty()) name.insert(0, prefix + "/");
      if (!long_name.empty()) name = long_name;
      name = safe_name(range, name);
      if (type == '0' || type == '\0') {
        if (out.size() == kMaxMembers) refuse(range, "more than a million members");
        out.push_back({name, at, size});
      } else if (type != '5') {
        throw Error(fmt::format("{}: the member {} is a link or a device, expected plain files", range.name, name));
      }
      long_name.clear();
      has_size = false;
    }
    at += (size + kBlock - 1) / kBlock * kBlock;
  }
  return out;
}

File open_tar(const std::filesystem::path& path) {
  File file = File::open_read(path);
  unsigned char start[2] = {};
  if (file.size() >= 2) file.read_at(0, start, 2);
  if (start[0] != 0x1f || start[1] != 0x8b) return file;
  static std::mutex mutex;
  static std::map<std::string, int> unpacked;  // descriptors, for the life of the process
  const std::lock_guard lock(mutex);
  struct stat status {};
  ::fstat(file.descriptor(), &status);
  const std::string key = fmt::format("{}:{}:{}:{}", status.st_dev, status.st_ino, status.st_size, status.st_mtime);
  const auto known = unpacked.find(key);
  const int fd = known != unpacked.end() ? known->second : inflate(path);
  unpacked[key] = fd;
  return File::open_read(fmt::format("/proc/self/fd/{}", fd));
}

}  // namespace sluice
