// SPDX-License-Identifier: Apache-2.0
// A prompt file, NUL, what follows the first line of its journal: lines are read or refused one by one, and a journal
// that was recovered is the same when it is opened again.
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
      fuzz::demand(!prompt.error.empty() || prompt.messages.is_list() || !prompt.text.empty(), "a prompt of nothing");
    }
    int64_t done = 0;
    {
      Journal journal(journal_path, "fuzz", prompts);
      done = journal.done();
      fuzz::demand(done <= prompts.size(), "more answers than prompts");
      for (int64_t i = 0; i < prompts.size(); ++i) {
        if (journal.has(i)) continue;
        journal.append(i, content_hash(prompts.raw(i)), "{}");
      }
      fuzz::demand(journal.done() == prompts.size(), "an answer was not counted");
    }
    Journal again(journal_path, "fuzz", prompts);
    fuzz::demand(again.done() == prompts.size(), "answers were lost between two openings");
    again.finish(folder.path() / "output");
  });
  return 0;
}
