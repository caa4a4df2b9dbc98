// SPDX-License-Identifier: Apache-2.0
// Finished answers on disk, in the order they finished, so that a killed run loses only what was under way.
// Beside the output: OUTPUT.journal. First line: a fingerprint of model and settings. Then one line per answer:
//   <index> <hash of the prompt line> <checksum of the answer> <answer>
// Owned by one thread of one process: the file is locked.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace sluice {

class PromptFile;

// FNV-1a, 64 bits.
uint64_t content_hash(std::string_view bytes);

class Journal {
 public:
  // Opens or creates it and reads what is there. A torn or damaged tail is cut off; answers to prompts that have
  // changed since are dropped. Throws Error when another process holds it, or when it was written with another
  // fingerprint.
  Journal(const std::filesystem::path& path, std::string_view fingerprint, const PromptFile& prompts);
  ~Journal();
  Journal(const Journal&) = delete;
  Journal& operator=(const Journal&) = delete;

  bool has(int64_t index) const { return entries_[static_cast<size_t>(index)].bytes != 0; }
  int64_t done() const { return done_; }
  // Throws Error when the disk is full; the journal stays readable.
  void append(int64_t index, uint64_t prompt_hash, std::string_view answer);
  void sync();
  // Writes all answers in input order to `output` by rename, then removes the journal. All must be there.
  void finish(const std::filesystem::path& output);

 private:
  struct Entry {
    uint64_t offset = 0;  // of the answer
    uint32_t bytes = 0;   // 0: none yet
  };
  std::filesystem::path path_;
  int fd_ = -1;
  uint64_t end_ = 0;
  int64_t done_ = 0;
  bool dirty_ = false;
  std::vector<Entry> entries_;
  std::string buffer_;
};

}  // namespace sluice
