// SPDX-License-Identifier: Apache-2.0
#include "batch/journal.h"

#include <doctest/doctest.h>

#include <filesystem>
#include <string>

#include "base/error.h"
#include "batch/prompt_file.h"
#include "batch/scratch.h"

using namespace sluice;

namespace {
void put(Journal& journal, const PromptFile& prompts, int64_t index, const std::string& answer) {
  journal.append(index, content_hash(prompts.raw(index)), answer);
}
}  // namespace

TEST_CASE("answers survive in any order and come out in input order") {
  Scratch scratch;
  const PromptFile prompts(scratch.write("p", "a\nb\nc\n"));
  {
    Journal journal(scratch.path / "o.journal", "m", prompts);
    put(journal, prompts, 2, "C");
    put(journal, prompts, 0, "A");
  }
  Journal journal(scratch.path / "o.journal", "m", prompts);
  CHECK(journal.done() == 2);
  CHECK_FALSE(journal.has(1));
  put(journal, prompts, 1, "B");
  journal.finish(scratch.path / "o");
  CHECK(read_file(scratch.path / "o") == "A\nB\nC\n");
  CHECK_FALSE(std::filesystem::exists(scratch.path / "o.journal"));
}

TEST_CASE("a journal cut at any byte keeps every whole answer and goes on") {
  Scratch scratch;
  const PromptFile prompts(scratch.write("p", "a\nb\nc\n"));
  {
    Journal journal(scratch.path / "j", "m", prompts);
    put(journal, prompts, 1, R"({"text":"B"})");
    put(journal, prompts, 0, R"({"text":"A"})");
  }
  const std::string whole = read_file(scratch.path / "j");
  const size_t header = whole.find('\n') + 1, first = whole.find('\n', header) + 1;
  for (size_t cut = 0; cut <= whole.size(); ++cut) {
    scratch.write("k", whole.substr(0, cut));
    {
      Journal journal(scratch.path / "k", "m", prompts);
      CHECK(journal.done() == (cut >= whole.size() ? 2 : cut >= first ? 1 : 0));
      for (int i = 0; i < 3; ++i) {
        if (!journal.has(i)) put(journal, prompts, i, "x");
      }
    }
    Journal again(scratch.path / "k", "m", prompts);
    REQUIRE(again.done() == 3);
  }
}

TEST_CASE("a damaged answer is not believed") {
  Scratch scratch;
  const PromptFile prompts(scratch.write("p", "a\nb\n"));
  {
    Journal journal(scratch.path / "j", "m", prompts);
    put(journal, prompts, 0, "hello");
  }
  std::string content = read_file(scratch.path / "j");
  content[content.size() - 3] ^= 1;
  scratch.write("j", content);
  CHECK(Journal(scratch.path / "j", "m", prompts).done() == 0);
}

TEST_CASE("answers to prompts that changed are dropped, other settings are refused") {
  Scratch scratch;
  {
    const PromptFile prompts(scratch.write("p", "a\nb\n"));
    Journal journal(scratch.path / "j", "m", prompts);
    put(journal, prompts, 0, "A");
    put(journal, prompts, 1, "B");
  }
  const PromptFile changed(scratch.write("p", "a\nB!\n"));
  CHECK(Journal(scratch.path / "j", "m", changed).done() == 1);
  CHECK_THROWS_WITH_AS(Journal(scratch.path / "j", "other", changed), doctest::Contains("other settings"), Error);
}
