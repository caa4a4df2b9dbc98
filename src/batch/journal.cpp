// SPDX-License-Identifier: Apache-2.0
#include "batch/journal.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "batch/prompt_file.h"

namespace sluice {
namespace {

// Takes "<number> " in `base` from the front. False when it is none.
bool take_number(std::string_view& text, uint64_t& value, int base) {
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  const size_t used = static_cast<size_t>(stop - text.data());
  if (error != std::errc() || used >= text.size() || text[used] != ' ') return false;
  text.remove_prefix(used + 1);
  return true;
}

void write_all(int fd, std::string_view bytes, const std::filesystem::path& path) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0)
      throw Error(fmt::format("cannot write {}: {}; nothing is lost, free some space and run the same command again",
                              path.string(), std::strerror(errno)));
    bytes.remove_prefix(static_cast<size_t>(n));
  }
}

}  // namespace

uint64_t content_hash(std::string_view bytes) {
  uint64_t hash = 0xcbf29ce484222325ull;
  for (const char c : bytes) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3ull;
  return hash;
}

JournalScan scan_journal(const std::filesystem::path& path, std::string_view fingerprint, const PromptFile& prompts,
                         const std::function<void(const JournalEntry&)>& take) {
  const std::string content = read_file(path);
  const std::string header = fmt::format("sluice journal 1 {}\n", fingerprint);
  JournalScan scan;
  scan.size = content.size();
  std::string_view rest = content;
  const size_t first_end = rest.find('\n');
  if (first_end == std::string_view::npos) return scan;  // new, or killed while the first line was written
  if (rest.substr(0, first_end + 1) != header) {
    throw Error(
        fmt::format("{} was written with other settings:\n  found    {}\n  expected {}Use the same model and "
                    "settings to go on, or remove it to start over",
                    path.string(), rest.substr(0, first_end), header));
  }
  rest.remove_prefix(first_end + 1);
  scan.end = first_end + 1;
  while (!rest.empty()) {
    const size_t line_end = rest.find('\n');
    if (line_end == std::string_view::npos) break;
    std::string_view line = rest.substr(0, line_end);
    uint64_t index = 0, prompt = 0, checksum = 0;
    if (!take_number(line, index, 10) || !take_number(line, prompt, 16) || !take_number(line, checksum, 16) ||
        content_hash(line) != checksum || line.empty())
      break;
    if (index < static_cast<uint64_t>(prompts.size()) &&
        content_hash(prompts.raw(static_cast<int64_t>(index))) == prompt) {
      take({static_cast<int64_t>(index), static_cast<uint64_t>(line.data() - content.data()),
            static_cast<uint32_t>(line.size())});
    } else {
      ++scan.changed;
    }
    rest.remove_prefix(line_end + 1);
    scan.end = static_cast<uint64_t>(rest.data() - content.data());
  }
  return scan;
}

Journal::Journal(const std::filesystem::path& path, std::string_view fingerprint, const PromptFile& prompts,
                 const std::function<void(const JournalEntry&)>& take)
    : path_(path) {
  fd_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd_ < 0) throw Error(fmt::format("cannot open {}: {}", path.string(), std::strerror(errno)));
  try {
    lock();
    const JournalScan scan = scan_journal(path, fingerprint, prompts, take);
    end_ = scan.end;
    if (scan.changed > 0)
      log_warning(fmt::format("{}: {} answers belong to prompts that have changed since; those prompts run again",
                              path.string(), scan.changed));
    if (scan.end > 0 && scan.end < scan.size)
      log_warning(fmt::format("{}: cutting off {} bytes of an unfinished answer", path.string(), scan.size - scan.end));
    if (scan.end < scan.size && ::ftruncate(fd_, static_cast<off_t>(scan.end)) != 0)
      throw Error(fmt::format("cannot truncate {}: {}", path.string(), std::strerror(errno)));
    if (::lseek(fd_, 0, SEEK_END) < 0)
      throw Error(fmt::format("cannot seek in {}: {}", path.string(), std::strerror(errno)));
    if (scan.end > 0) return;
    const std::string header = fmt::format("sluice journal 1 {}\n", fingerprint);
    write_all(fd_, header, path);
    end_ = header.size();
  } catch (...) {
    ::close(fd_);
    throw;
  }
}

Journal::~Journal() {
  if (fd_ >= 0) ::close(fd_);
}

void Journal::lock() {
  struct flock lock {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  if (::fcntl(fd_, F_SETLK, &lock) == 0) return;
  if (errno == EACCES || errno == EAGAIN)
    throw Error(
        fmt::format("{} is in use by another process; wait for it, choose another output, or start both with "
                    "--shared to let them divide the work",
                    path_.string()));
  throw Error(fmt::format("cannot lock {}: {}", path_.string(), std::strerror(errno)));
}

JournalEntry Journal::append(int64_t index, uint64_t prompt_hash, std::string_view answer) {
  buffer_.clear();
  fmt::format_to(std::back_inserter(buffer_), "{} {:016x} {:016x} ", index, prompt_hash, content_hash(answer));
  const uint64_t head = buffer_.size();
  buffer_.append(answer);
  buffer_.push_back('\n');
  write_all(fd_, buffer_, path_);
  const JournalEntry entry{index, end_ + head, static_cast<uint32_t>(answer.size())};
  end_ += buffer_.size();
  dirty_ = true;
  return entry;
}

void Journal::sync() {
  if (!dirty_) return;
  if (::fdatasync(fd_) != 0) throw Error(fmt::format("cannot sync {}: {}", path_.string(), std::strerror(errno)));
  dirty_ = false;
}

uint32_t Answers::journal(const std::filesystem::path& path) {
  const auto found = std::ranges::find(journals_, path);
  if (found != journals_.end()) return static_cast<uint32_t>(found - journals_.begin());
  journals_.push_back(path);
  return static_cast<uint32_t>(journals_.size() - 1);
}

void Answers::add(uint32_t journal, const JournalEntry& entry) {
  Place& place = places_[static_cast<size_t>(entry.index)];
  if (place.bytes == 0) ++done_;
  place = {entry.offset, entry.bytes, journal};
}

void Answers::forget() {
  std::ranges::fill(places_, Place{});
  done_ = 0;
}

void Answers::write(const std::filesystem::path& output, const std::filesystem::path& temporary) const {
  const int out = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (out < 0) throw Error(fmt::format("cannot open {}: {}", temporary.string(), std::strerror(errno)));
  try {
    std::vector<File> files;
    for (const auto& path : journals_) files.push_back(File::open_read(path));
    std::string block;
    for (const Place& place : places_) {
      check(place.bytes != 0, "an answer is missing at the end of the run");
      const size_t at = block.size();
      block.resize(at + place.bytes);
      files[place.journal].read_at(place.offset, block.data() + at, place.bytes);
      block.push_back('\n');
      if (block.size() > (1u << 20)) {
        write_all(out, block, temporary);
        block.clear();
      }
    }
    write_all(out, block, temporary);
    if (::fsync(out) != 0) throw Error(fmt::format("cannot sync {}: {}", temporary.string(), std::strerror(errno)));
  } catch (...) {
    ::close(out);
    ::unlink(temporary.c_str());
    throw;
  }
  ::close(out);
  if (::rename(temporary.c_str(), output.c_str()) != 0)
    throw Error(fmt::format("cannot replace {}: {}", output.string(), std::strerror(errno)));
}

}  // namespace sluice
