// SPDX-License-Identifier: Apache-2.0
#include "hub/part_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <ctime>

#include "base/error.h"

namespace sluice {
namespace {
constexpr uint64_t kMagic = 0x3250'4543'4955'4c53;  // "SLUICEP2"
constexpr uint64_t kAlike = 8;                      // pieces of one length, before longer and after shorter ones

std::vector<uint64_t> cut(uint64_t size, uint64_t piece, uint64_t shortest) {
  std::vector<uint64_t> begins{0};
  uint64_t longest = shortest;
  while (begins.back() < size) {
    const uint64_t left = size - begins.back();
    uint64_t length = longest;
    while (length / 2 >= shortest && left < kAlike * length) length /= 2;
    begins.push_back(begins.back() + std::min(length, left));
    if ((begins.size() - 1) % kAlike == 0) longest = std::min(piece, longest * 2);
  }
  if (size == 0) begins.push_back(0);
  return begins;
}

double thread_seconds() {
  timespec now{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

[[noreturn]] void fail(const char* what, const std::filesystem::path& path) {
  const int number = errno;
  const char* advice = number == ENOSPC   ? "; free some space or set HF_HUB_CACHE to another file system"
                       : number == EDQUOT ? "; your quota is used up: set HF_HUB_CACHE to another file system"
                                          : "";
  throw Error(fmt::format("cannot {} {}: {}{}", what, path.string(), std::strerror(number), advice));
}
}  // namespace

struct PartFile::State {
  uint64_t magic, size, piece, shortest;
  std::atomic<uint64_t> done[1];  // one per piece
};

PartFile::PartFile(const std::filesystem::path& blob, uint64_t size, uint64_t piece, uint64_t shortest)
    : blob_(blob),
      part_(blob.string() + ".part"),
      state_path_(blob.string() + ".part-state"),
      size_(size),
      piece_(piece),
      shortest_(shortest),
      begins_(cut(size, piece, shortest)) {
  std::filesystem::create_directories(blob.parent_path());
  fd_ = ::open(part_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd_ < 0) fail("make", part_);
  state_bytes_ = sizeof(State) + sizeof(uint64_t) * static_cast<size_t>(pieces());
  const int state_fd = ::open(state_path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (state_fd < 0) fail("make", state_path_);
  struct stat part {
  }, state{};
  if (::fstat(fd_, &part) != 0 || ::fstat(state_fd, &state) != 0) fail("look at", part_);
  const bool fits = static_cast<size_t>(state.st_size) == state_bytes_;
  // Real blocks, not a hole: a mapped page on a full disk would be a bus error.
  if (!fits &&
      (::ftruncate(state_fd, 0) != 0 || ::posix_fallocate(state_fd, 0, static_cast<off_t>(state_bytes_)) != 0)) {
    ::close(state_fd);
    errno = ENOSPC;
    fail("make", state_path_);
  }
  void* mapped = ::mmap(nullptr, state_bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, state_fd, 0);
  ::close(state_fd);
  if (mapped == MAP_FAILED) fail("map", state_path_);
  state_ = static_cast<State*>(mapped);
  bool good = fits && state_->magic == kMagic && state_->size == size_ && state_->piece == piece_ &&
              state_->shortest == shortest_;
  for (int64_t i = 0; good && i < pieces(); ++i) {
    const uint64_t n = done(i);
    good = n <= length(i) && (n == 0 || begin(i) + n <= static_cast<uint64_t>(part.st_size));
  }
  if (!good) {
    state_->magic = kMagic, state_->size = size_, state_->piece = piece_, state_->shortest = shortest_;
    reset();
  }
}

PartFile::~PartFile() {
  if (state_ != nullptr) ::munmap(state_, state_bytes_);
  if (fd_ >= 0) ::close(fd_);
}

uint64_t PartFile::done(int64_t piece) const { return state_->done[piece].load(std::memory_order_acquire); }

uint64_t PartFile::done() const {
  uint64_t sum = 0;
  for (int64_t i = 0; i < pieces(); ++i) sum += done(i);
  return sum;
}

uint64_t PartFile::frontier() const {
  for (int64_t i = 0; i < pieces(); ++i) {
    if (const uint64_t n = done(i); n < length(i)) return begin(i) + n;
  }
  return size_;
}

void PartFile::append(int64_t piece, const char* bytes, size_t n) {
  uint64_t have = done(piece);
  check(have + n <= length(piece), "a piece of a download is longer than asked for");
  const bool full = n >= WriteLength::kBytes[0];
  const size_t longest = full ? write_length_.next() : n;
  const double begun = full ? thread_seconds() : 0;
  const size_t all = n;
  while (n > 0) {
    const ssize_t written = ::pwrite(fd_, bytes, std::min(n, longest), static_cast<off_t>(begin(piece) + have));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail("write", part_);
    bytes += written, n -= static_cast<size_t>(written), have += static_cast<uint64_t>(written);
    state_->done[piece].store(have, std::memory_order_release);
  }
  if (full) write_length_.cost((thread_seconds() - begun) / static_cast<double>(all));
}

void PartFile::reset() {
  for (int64_t i = 0; i < pieces(); ++i) state_->done[i].store(0, std::memory_order_release);
}

void PartFile::read(uint64_t at, void* to, size_t n) const {
  auto* out = static_cast<char*>(to);
  while (n > 0) {
    const ssize_t got = ::pread(fd_, out, n, static_cast<off_t>(at));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail("read", part_);
    if (got == 0) throw Error(fmt::format("{} became shorter while it was read", part_.string()));
    out += got, at += static_cast<uint64_t>(got), n -= static_cast<size_t>(got);
  }
}

void PartFile::write_back(uint64_t at, uint64_t n) const {
#ifdef SYNC_FILE_RANGE_WRITE
  // A file system that does not know it leaves everything to sync().
  (void)::sync_file_range(fd_, static_cast<off_t>(at), static_cast<off_t>(n), SYNC_FILE_RANGE_WRITE);
#endif
}

void PartFile::sync() const {
  if (::fdatasync(fd_) != 0) fail("sync", part_);
}

void PartFile::finish() {
  if (::rename(part_.c_str(), blob_.c_str()) != 0) fail("rename", part_);
  ::unlink(state_path_.c_str());
}

void PartFile::remove() {
  ::unlink(part_.c_str());
  ::unlink(state_path_.c_str());
}

}  // namespace sluice
