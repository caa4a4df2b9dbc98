// SPDX-License-Identifier: Apache-2.0
// A file that is arriving in pieces. Beside the bytes (DIGEST.part) a small mapped file (DIGEST.part-state) counts what
// each piece holds, so that a process killed at any moment leaves both in step and the next one goes on from there.
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "hub/write_length.h"

namespace sluice {

class PartFile {
 public:
  // Opens or makes both files for `size` bytes in pieces of `piece` bytes, which are shorter at the beginning and at
  // the end, from `shortest` on: what several connections bring then has few gaps when the first bytes are there, and
  // ends at the same time. A state of other pieces or another version starts afresh. Throws Error.
  PartFile(const std::filesystem::path& blob, uint64_t size, uint64_t piece, uint64_t shortest);
  ~PartFile();
  PartFile(const PartFile&) = delete;
  PartFile& operator=(const PartFile&) = delete;

  uint64_t size() const { return size_; }
  int64_t pieces() const { return static_cast<int64_t>(begins_.size()) - 1; }
  uint64_t begin(int64_t piece) const { return begins_[static_cast<size_t>(piece)]; }
  uint64_t length(int64_t piece) const { return begin(piece + 1) - begin(piece); }
  uint64_t done(int64_t piece) const;  // bytes from its begin that are written
  uint64_t done() const;               // over all pieces
  uint64_t frontier() const;           // bytes from the start of the file without a gap; any thread
  bool complete() const { return done() == size_; }

  // Appends to the piece. Throws Error naming a full disk or an exhausted quota.
  void append(int64_t piece, const char* bytes, size_t n);
  void reset();  // nothing is there any more
  // Reads what lies before the frontier.
  void read(uint64_t at, void* to, size_t n) const;
  // Asks for the bytes to go to the disk now, so that sync() finds little left; does not wait. Any thread.
  void write_back(uint64_t at, uint64_t n) const;
  void sync() const;  // waits until all bytes are on the disk; any thread. Throws Error
  // Renames the bytes, which sync() has made durable, to the blob and removes the state. Throws Error.
  void finish();
  void remove();  // both files

 private:
  struct State;
  std::filesystem::path blob_, part_, state_path_;
  uint64_t size_, piece_, shortest_;
  std::vector<uint64_t> begins_;  // of all pieces, then the size
  WriteLength write_length_;
  int fd_ = -1;
  State* state_ = nullptr;
  size_t state_bytes_ = 0;
};

}  // namespace sluice
