// SPDX-License-Identifier: Apache-2.0
#include <unistd.h>

#include "base/error.h"
#include "batch/work.h"

namespace sluice {
namespace {

class OwnWork final : public Work {
 public:
  OwnWork(const PromptFile& prompts, std::filesystem::path output, const std::string& fingerprint)
      : prompts_(prompts),
        output_(std::move(output)),
        answers_(prompts.size()),
        number_(answers_.journal(output_.string() + ".journal")),
        journal_(output_.string() + ".journal", fingerprint, prompts,
                 [this](const JournalEntry& entry) { answers_.add(number_, entry); }) {}

  int64_t next() override {
    while (next_ < prompts_.size() && answers_.has(next_)) ++next_;
    return next_ < prompts_.size() ? next_++ : -1;
  }
  void record(int64_t index, std::string_view answer) override {
    answers_.add(number_, journal_.append(index, content_hash(prompts_.raw(index)), answer));
  }
  void sync() override { journal_.sync(); }
  bool complete() override { return answers_.done() == prompts_.size(); }
  bool finish() override {
    journal_.sync();
    answers_.write(output_, output_.string() + ".tmp");
    ::unlink(journal_.path().c_str());
    return true;
  }
  int64_t done() override { return answers_.done(); }
  std::string waiting_for() override { return {}; }

 private:
  const PromptFile& prompts_;
  const std::filesystem::path output_;
  Answers answers_;
  const uint32_t number_;
  Journal journal_;
  int64_t next_ = 0;
};

}  // namespace

std::unique_ptr<Work> own_work(const PromptFile& prompts, const std::filesystem::path& output,
                               const std::string& fingerprint) {
  return std::make_unique<OwnWork>(prompts, output, fingerprint);
}

}  // namespace sluice
