// SPDX-License-Identifier: Apache-2.0
// Files: whole reads, atomic replacement, and positioned reads of large ranges.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace sluice {

// An open descriptor, closed by its owner. Reads never move a shared position, so threads may share one File.
class File {
 public:
  static File open_read(const std::filesystem::path& path);  // throws Error naming the path and the system's reason
  File(File&& other) noexcept;
  File& operator=(File&& other) noexcept;
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File();

  uint64_t size() const;  // bytes, at the time of the call
  // Reads exactly `bytes` from `offset`; throws Error when the file is shorter.
  void read_at(uint64_t offset, void* to, size_t bytes) const;
  // Tells the system that the range will not be read again, so that it does not stay in the page cache.
  void forget(uint64_t offset, uint64_t bytes) const;
  const std::filesystem::path& path() const { return path_; }
  int descriptor() const { return fd_; }

 private:
  File(int fd, std::filesystem::path path) : fd_(fd), path_(std::move(path)) {}
  int fd_ = -1;
  std::filesystem::path path_;
};

std::string read_file(const std::filesystem::path& path);  // throws Error

// Writes a temporary file in the same folder, syncs it, renames it over `path`. A reader sees the old or the new whole.
void replace_file(const std::filesystem::path& path, std::string_view content, unsigned mode = 0644);

// The folder, made if missing with mode 0700. Refused when it is another user's or open to others. Throws Error.
void make_private_folder(const std::filesystem::path& path);

}  // namespace sluice
