// SPDX-License-Identifier: Apache-2.0
#include "batch/journal.h"

#include <doctest/doctest.h>
#include <sys/stat.h>

#include <filesystem>
#include <string>

#include "base/error.h"
#include "batch/prompt_file.h"
#include "batch/scratch.h"

using namespace sluice;

namespace {
// A journal with what it holds.
struct Kept {
  Answers answers;
  const PromptFile& prompts;
  uint32_t number;
  Journal journal;

  Kept(const std::filesystem::path& path, const char* fingerprint, const PromptFile& of)
      : answers(of.size()),
        prompts(of),
        number(answers.journal(path)),
        journal(path, fingerprint, of, [this](auto& e) { answers.add(number, e); }) {}
  void put(int64_t index, const std::string& answer) {
    answers.add(number, journal.append(index, content_hash(prompts.raw(index)), answer));
  }
};
}  // namespace

TEST_CASE("answers survive in any order and come out in input order") {
  Scratch scratch;
  const PromptFile prompts(scratch.write("p", "a\nb\nc\n"));
  {
    Kept journal(scratch.path / "o.journal", "m", prompts);
    journal.put(2, "C");
    journal.put(0, "A");
  }
  Kept journal(scratch.path / "o.journal", "m", prompts);
  CHECK(journal.answers.done() == 2);
  CHECK_FALSE(journal.answers.has(1));
  journal.put(1, "B");
  journal.answers.write(scratch.path / "o", scratch.path / "o.tmp");
  CHECK(read_file(scratch.path / "o") == "A\nB\nC\n");
  CHECK_FALSE(std::filesystem::exists(scratch.path / "o.tmp"));
  struct stat status {};
  REQUIRE(::stat((scratch.path / "o.journal").c_str(), &status) == 0);
  CHECK((status.st_mode & 0777) == 0600);
}

TEST_CASE("a journal cut at any byte keeps every whole answer and goes on") {
  Scratch scratch;
  const PromptFile prompts(scratch.write("p", "a\nb\nc\n"));
  {
    Kept journal(scratch.path / "j", "m", prompts);
    journal.put(1, R"({"text":"B"})");
    journal.put(0, R"({"text":"A"})");
  }
  const std::string whole = read_file(scratch.path / "j");
  const size_t header = whole.find('\n') + 1, first = whole.find('\n', header) + 1;
  for (size_t cut = 0; cut <= whole.size(); ++cut) {
    scratch.write("k", whole.substr(0, cut));
    {
      Kept journal(scratch.path / "k", "m", prompts);
      CHECK(journal.answers.done() == (cut >= whole.size() ? 2 : cut >= first ? 1 : 0));
      for (int i = 0; i < 3; ++i) {
        if (!journal.answers.has(i)) journal.put(i, "x");
      }
    }
    Kept again(scratch.path / "k", "m", prompts);
    REQUIRE(again.answers.done() == 3);
  }
}

TEST_CASE("a damaged answer is not believed") {
  Scratch scratch;
  const PromptFile prompts(scratch.write("p", "a\nb\n"));
  {
    Kept journal(scratch.path / "j", "m", prompts);
    journal.put(0, "hello");
  }
  std::string content = read_file(scratch.path / "j");
  content[content.size() - 3] ^= 1;
  scratch.write("j", content);
  CHECK(Kept(scratch.path / "j", "m", prompts).answers.done() == 0);
}

TEST_CASE("answers to prompts that changed are dropped, other settings are refused") {
  Scratch scratch;
  {
    const PromptFile prompts(scratch.write("p", "a\nb\n"));
    Kept journal(scratch.path / "j", "m", prompts);
    journal.put(0, "A");
    journal.put(1, "B");
  }
  const PromptFile changed(scratch.write("p", "a\nB!\n"));
  CHECK(Kept(scratch.path / "j", "m", changed).answers.done() == 1);
  CHECK_THROWS_WITH_AS(Kept(scratch.path / "j", "other", changed), doctest::Contains("other settings"), Error);
}
