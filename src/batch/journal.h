// SPDX-License-Identifier: Apache-2.0
// Finished answers on disk, in the order they finished, so that a killed run loses only what was under way.
// First line: a fingerprint of model and settings. Then one line per answer:
//   <index> <hash of the prompt line> <checksum of the answer> <answer>
// One process writes a journal; any may read it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace sluice {

class PromptFile;

// FNV-1a, 64 bits.
uint64_t content_hash(std::string_view bytes);

struct JournalEntry {
  int64_t index = 0;    // of the prompt
  uint64_t offset = 0;  // of the answer in the journal
  uint32_t bytes = 0;
};
// Calls `take` for every whole answer to a prompt that has not changed since; stops at the first damage. Returns the
// bytes up to there. Throws Error when the journal was written with another fingerprint; 0 when it holds no header yet.
struct JournalScan {
  uint64_t end = 0, size = 0;
  int64_t changed = 0;  // answers passed over
};
JournalScan scan_journal(const std::filesystem::path& path, std::string_view fingerprint, const PromptFile& prompts,
                         const std::function<void(const JournalEntry&)>& take);

// The file that this process appends to.
class Journal {
 public:
  // Opens or creates it and reads what is there. A torn or damaged tail is cut off. Throws Error when another process
  // holds it, or when it was written with another fingerprint.
  Journal(const std::filesystem::path& path, std::string_view fingerprint, const PromptFile& prompts,
          const std::function<void(const JournalEntry&)>& take);
  ~Journal();
  Journal(const Journal&) = delete;
  Journal& operator=(const Journal&) = delete;

  // Throws Error when the disk is full; the journal stays readable.
  JournalEntry append(int64_t index, uint64_t prompt_hash, std::string_view answer);
  void sync();
  const std::filesystem::path& path() const { return path_; }

 private:
  void lock();

  std::filesystem::path path_;
  int fd_ = -1;
  uint64_t end_ = 0;
  bool dirty_ = false;
  std::string buffer_;
};

// Where the answers to all prompts are, in one journal or many.
class Answers {
 public:
  explicit Answers(int64_t prompts) : places_(static_cast<size_t>(prompts)) {}
  // The number of a journal, for add().
  uint32_t journal(const std::filesystem::path& path);
  void add(uint32_t journal, const JournalEntry& entry);
  bool has(int64_t index) const { return places_[static_cast<size_t>(index)].bytes != 0; }
  int64_t done() const { return done_; }
  void forget();
  // Writes all answers in input order to `temporary`, then renames it to `output`. All must be there. Throws Error.
  void write(const std::filesystem::path& output, const std::filesystem::path& temporary) const;

 private:
  struct Place {
    uint64_t offset = 0;
    uint32_t bytes = 0;  // 0: none yet
    uint32_t journal = 0;
  };
  std::vector<std::filesystem::path> journals_;
  std::vector<Place> places_;
  int64_t done_ = 0;
};

}  // namespace sluice
