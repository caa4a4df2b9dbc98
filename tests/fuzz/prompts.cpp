// SPDX-License-Identifier: Apache-2.0
// A prompt file, NUL, what follows the first line of its journal: lines are read or refused one by one, and a journal
// that was recovered is the same when it is opened again.
#include <memory>

#include "batch/journal.h"
#include "batch/prompt_file.h"
#include "fuzz/fuzz.h"

using namespace sluice;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const fuzz::Folder folder;
  std::string_view rest = fuzz::text_of(data, size);
  const auto prompts_path = folder.write("prompts", fuzz::take_part(rest));
  const auto journal_path = folder.write("journal", "sluice journal 1 fuzz\n" + std::string(rest));
  fuzz::accepts([&] {
    const PromptFile prompts(prompts_path);
    GenerateRequest defaults;
    for (int64_t i = 0; i < prompts.size(); ++i) {
      const Prompt prompt = prompts.read(i, defaults);
      fuzz::demand(prompt.index == i && prompt.line > i, "a prompt out of order");
      fuzz::demand(!prompt.error.empty() || prompt.messages.is_list() || !prompt.text.empty() || !prompt.body.empty(),
                   "a prompt of nothing");
    }
    const auto open = [&](Answers& answers) {
      const uint32_t number = answers.journal(journal_path);
      return std::make_unique<Journal>(journal_path, "fuzz", prompts,
                                       [&, number](const JournalEntry& entry) { answers.add(number, entry); });
    };
    {
      Answers answers(prompts.size());
      const auto journal = open(answers);
      fuzz::demand(answers.done() <= prompts.size(), "more answers than prompts");
      for (int64_t i = 0; i < prompts.size(); ++i) {
        if (!answers.has(i)) answers.add(0, journal->append(i, content_hash(prompts.raw(i)), "{}"));
      }
      fuzz::demand(answers.done() == prompts.size(), "an answer was not counted");
      journal->sync();
      answers.forget();
      fuzz::demand(answers.done() == 0, "answers are counted that were forgotten");
    }
    const auto ignore = [](const JournalEntry&) {};
    fuzz::demand(!fuzz::accepts([&] { Journal(journal_path, "other settings", prompts, ignore); }),
                 "the journal of another run was taken");
    Answers again(prompts.size());
    const auto journal = open(again);
    fuzz::demand(again.done() == prompts.size(), "answers were lost between two openings");
    again.write(folder.path() / "output", folder.path() / "output.part");
  });
  return 0;
}
