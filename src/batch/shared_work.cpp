// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <deque>
#include <set>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "batch/work.h"

namespace sluice {
namespace {

constexpr int64_t kMostChunks = 1024, kLeastPrompts = 16;  // by default: few files, and work enough for every process

// What all processes must agree about. The first one writes it; the others take its chunk size.
struct Plan {
  std::string text;  // but for the chunk
  int64_t chunk = 0;
};

Plan agree(const std::filesystem::path& folder, const PromptFile& prompts, const std::string& fingerprint,
           const SharedOptions& options) {
  Plan plan;
  plan.text = fmt::format("sluice shared 1\n{}\n{} prompts {:016x}\n", fingerprint, prompts.size(), prompts.hash());
  plan.chunk =
      options.chunk > 0 ? options.chunk : std::max(kLeastPrompts, (prompts.size() + kMostChunks - 1) / kMostChunks);
  const std::filesystem::path path = folder / "plan", own = folder / ("plan." + options.me.id);
  replace_file(own, fmt::format("{}chunk {}\n", plan.text, plan.chunk), 0600);
  // Whole or not at all, for whoever comes first; a file system without links gets a rename, which all agree about too
  // unless two processes start within the same moment with other --chunk sizes.
  if (::link(own.c_str(), path.c_str()) != 0 && errno != EEXIST && !std::filesystem::exists(path))
    std::filesystem::rename(own, path);
  ::unlink(own.c_str());
  const std::string found = read_file(path);
  const size_t at = found.rfind("chunk ");
  if (at == std::string::npos || found.substr(0, at) != plan.text) {
    throw Error(
        fmt::format("{} belongs to other prompts or settings:\n  found    {}  expected {}Use the same file, model and "
                    "settings to go on, or remove the folder to start over",
                    folder.string(), found.substr(0, at), plan.text));
  }
  plan.chunk = std::strtoll(found.c_str() + at + 6, nullptr, 10);
  check(plan.chunk > 0, "a plan without a chunk size");
  return plan;
}

class SharedWork final : public Work {
 public:
  SharedWork(const PromptFile& prompts, std::filesystem::path output, std::string fingerprint, SharedOptions options)
      : prompts_(prompts),
        output_(std::move(output)),
        fingerprint_(std::move(fingerprint)),
        folder_(shared_folder(output_)),
        me_(options.me),
        answers_(prompts.size()) {
    make_private_folder(folder_);
    make_private_folder(folder_ / "journals");
    chunk_ = agree(folder_, prompts, fingerprint_, options).chunk;
    Claims::Options claims = std::move(options.claims);
    claims.folder = folder_;
    claims.chunks = (prompts.size() + chunk_ - 1) / chunk_;
    claims.first = claims.chunks * options.first / std::max<int64_t>(options.of, 1) % claims.chunks;
    left_.resize(static_cast<size_t>(claims.chunks));
    claims_ = std::make_unique<Claims>(std::move(claims), me_);
    read_all();
    journal_ = std::make_unique<Journal>(folder_ / "journals" / me_.id, fingerprint_, prompts, [](auto&) {});
    number_ = answers_.journal(journal_->path());
  }

  int64_t next() override {
    while (queue_.empty()) {
      std::optional<Claim> claim;
      if (!guarded([&] { claim = claims_->take(); }) || !claim) return -1;
      // Whoever had it before may have answered some. It is dead: what its journal says once it says for all its
      // chunks.
      for (const std::string& owner : claim->before)
        if (read_.insert(owner).second) read(folder_ / "journals" / owner);
      const int64_t begin = claim->chunk * chunk_, end = std::min(begin + chunk_, prompts_.size());
      for (int64_t i = begin; i < end; ++i)
        if (!answers_.has(i)) queue_.push_back(i);
      left_[static_cast<size_t>(claim->chunk)] = static_cast<int64_t>(queue_.size());
      if (queue_.empty()) claims_->finish(claim->chunk);
    }
    const int64_t index = queue_.front();
    queue_.pop_front();
    return index;
  }

  void record(int64_t index, std::string_view answer) override {
    answers_.add(number_, journal_->append(index, content_hash(prompts_.raw(index)), answer));
    const int64_t chunk = index / chunk_;
    if (--left_[static_cast<size_t>(chunk)] == 0) whole_.push_back(chunk);
  }

  void sync() override {
    journal_->sync();
    guarded([&] {
      for (const int64_t chunk : whole_) claims_->finish(chunk);
    });
    whole_.clear();
  }

  bool complete() override {
    bool all = false;
    return over() || !guarded([&] { all = claims_->all_finished(); }) || all;
  }

  bool finish() override {
    bool missing = false;
    if (!over()) {
      guarded([&] {
        answers_.forget();
        read_all();
        missing = reopen_missing();
        if (!missing) answers_.write(output_, output_.string() + "." + me_.id + ".tmp");
      });
    }
    if (!missing) clear();
    return !missing;
  }

  int64_t done() override { return std::min(prompts_.size(), std::max(answers_.done(), claims_->finished() * chunk_)); }
  std::string waiting_for() override { return claims_->holders(); }

 private:
  // Another process has put the output in place; it may have cleared up already, and then the folder is gone.
  bool over() const {
    std::error_code ignored;
    return std::filesystem::exists(output_, ignored);
  }
  template <class Body>
  bool guarded(Body body) {
    try {
      body();
      return true;
    } catch (const std::exception&) {
      if (!over()) throw;
      return false;
    }
  }

  void read(const std::filesystem::path& path) {
    std::error_code ignored;
    if (!std::filesystem::exists(path, ignored)) return;
    const uint32_t number = answers_.journal(path);
    scan_journal(path, fingerprint_, prompts_, [&](const JournalEntry& entry) {
      if (!answers_.has(entry.index)) answers_.add(number, entry);
    });
  }
  // In the order of names, so that everyone who merges picks the same of two answers.
  void read_all() {
    std::vector<std::filesystem::path> paths;
    for (const auto& entry : std::filesystem::directory_iterator(folder_ / "journals")) paths.push_back(entry.path());
    std::ranges::sort(paths);
    for (const auto& path : paths) read(path);
    read(output_.string() + ".journal");  // begun alone, gone on in company
  }

  // Chunks that are said to be finished and are not: a file system lost what it had acknowledged.
  bool reopen_missing() {
    std::vector<int64_t> chunks;
    for (int64_t i = 0; i < prompts_.size(); ++i)
      if (!answers_.has(i) && (chunks.empty() || chunks.back() != i / chunk_)) chunks.push_back(i / chunk_);
    for (const int64_t chunk : chunks) claims_->reopen(chunk);
    if (!chunks.empty())
      log_warning(fmt::format("{}: answers that were on disk are missing; {} chunks run again", folder_.string(),
                              chunks.size()));
    return !chunks.empty();
  }

  void clear() {
    claims_.reset();
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
    std::filesystem::remove(output_.string() + ".journal", ignored);
  }

  const PromptFile& prompts_;
  const std::filesystem::path output_;
  const std::string fingerprint_;
  const std::filesystem::path folder_;
  const Owner me_;
  int64_t chunk_ = 0;
  Answers answers_;
  std::unique_ptr<Claims> claims_;
  std::unique_ptr<Journal> journal_;
  uint32_t number_ = 0;
  std::deque<int64_t> queue_;   // of the chunk claimed last
  std::set<std::string> read_;  // dead owners whose journals have been
  std::vector<int64_t> left_;   // by chunk of this process: prompts without an answer
  std::vector<int64_t> whole_;  // chunks whose last answer is not synced yet
};

}  // namespace

std::filesystem::path shared_folder(const std::filesystem::path& output) { return output.string() + ".shared"; }

std::unique_ptr<Work> shared_work(const PromptFile& prompts, const std::filesystem::path& output,
                                  const std::string& fingerprint, SharedOptions options) {
  try {
    return std::make_unique<SharedWork>(prompts, output, fingerprint, std::move(options));
  } catch (const std::exception&) {
    std::error_code ignored;
    if (!std::filesystem::exists(output, ignored)) throw;
    std::filesystem::remove_all(shared_folder(output), ignored);  // what this process has put back
    return nullptr;
  }
}

}  // namespace sluice
