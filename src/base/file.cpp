// SPDX-License-Identifier: Apache-2.0
#include "base/file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/descriptors.h"
#include "base/error.h"

namespace sluice {
namespace {
[[noreturn]] void fail(const char* what, const std::filesystem::path& path) {
  throw Error(fmt::format("cannot {} {}: {}", what, path.string(), std::strerror(errno)));
}

void write_all(int fd, std::string_view content, const std::filesystem::path& path) {
  while (!content.empty()) {
    const ssize_t n = ::write(fd, content.data(), content.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail("write", path);
    content.remove_prefix(static_cast<size_t>(n));
  }
}
}  // namespace

File File::open_read(const std::filesystem::path& path) {
  const auto open = [&] { return ::open(path.c_str(), O_RDONLY | O_CLOEXEC); };
  int fd = open();
  if (fd < 0 && errno == EMFILE) {  // checkpoints may lie in thousands of files
    const uint64_t most = raise_descriptor_limit();
    fd = open();
    if (fd < 0 && errno == EMFILE)
      throw Error(fmt::format("cannot open {}: {} files are open, and no more are allowed; raise ulimit -n",
                              path.string(), most));
  }
  if (fd < 0) fail("open", path);
  return File(fd, path);
}

File::File(File&& other) noexcept : fd_(other.fd_), path_(std::move(other.path_)) { other.fd_ = -1; }

File& File::operator=(File&& other) noexcept {
  if (this != &other) {
    if (fd_ >= 0) ::close(fd_);
    fd_ = other.fd_;
    path_ = std::move(other.path_);
    other.fd_ = -1;
  }
  return *this;
}

File::~File() {
  if (fd_ >= 0) ::close(fd_);
}

uint64_t File::size() const {
  struct stat info {};
  if (::fstat(fd_, &info) != 0) fail("read the size of", path_);
  return static_cast<uint64_t>(info.st_size);
}

void File::read_at(uint64_t offset, void* to, size_t bytes) const {
  char* out = static_cast<char*>(to);
  size_t done = 0;
  while (done < bytes) {
    const ssize_t n = ::pread(fd_, out + done, bytes - done, static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail("read", path_);
    if (n == 0) {
      throw Error(fmt::format(
          "{} ends early: expected {} bytes from offset {}, found {}; the file is truncated, copy or download it again",
          path_.string(), bytes, offset, done));
    }
    done += static_cast<size_t>(n);
  }
}

void File::forget(uint64_t offset, uint64_t bytes) const {
  ::posix_fadvise(fd_, static_cast<off_t>(offset), static_cast<off_t>(bytes), POSIX_FADV_DONTNEED);
}

std::string read_file(const std::filesystem::path& path) {
  if (std::filesystem::is_directory(path))
    throw Error(fmt::format("cannot read {}: it is a folder, expected a file", path.string()));
  const File file = File::open_read(path);
  std::string content;
  char chunk[65536];
  for (;;) {  // until the end, because pipes and /proc files have no size
    const ssize_t n = ::read(file.descriptor(), chunk, sizeof chunk);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail("read", path);
    if (n == 0) return content;
    content.append(chunk, static_cast<size_t>(n));
  }
}

void replace_file(const std::filesystem::path& path, std::string_view content, unsigned mode) {
  const std::filesystem::path temporary = fmt::format("{}.tmp.{}", path.string(), ::getpid());
  const int fd = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, static_cast<mode_t>(mode));
  if (fd < 0) fail("create", path);
  try {
    write_all(fd, content, path);
    if (::fsync(fd) != 0) fail("sync", path);
  } catch (...) {
    ::close(fd);
    ::unlink(temporary.c_str());
    throw;
  }
  ::close(fd);
  if (::rename(temporary.c_str(), path.c_str()) != 0) {
    const int reason = errno;
    ::unlink(temporary.c_str());
    errno = reason;
    fail("replace", path);
  }
}

void make_private_folder(const std::filesystem::path& path) {
  if (path.has_parent_path()) {
    std::error_code ignored;
    std::filesystem::create_directories(path.parent_path(), ignored);
  }
  if (::mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) fail("create the folder", path);
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) fail("look at", path);
  if (!S_ISDIR(info.st_mode))
    throw Error(fmt::format("{} is not a folder; move it away or set SLUICE_HOME", path.string()));
  if (info.st_uid != ::geteuid()) {
    throw Error(fmt::format("{} belongs to user id {}, expected {}; set SLUICE_HOME to a folder of your own",
                            path.string(), info.st_uid, ::geteuid()));
  }
  if ((info.st_mode & 077) != 0) {
    throw Error(fmt::format("{} is open to other users (mode {:04o}), expected 0700; run: chmod 700 {}", path.string(),
                            info.st_mode & 07777, path.string()));
  }
}

}  // namespace sluice
