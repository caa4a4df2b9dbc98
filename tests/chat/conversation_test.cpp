// SPDX-License-Identifier: Apache-2.0
#include "chat/conversation.h"

#include <doctest/doctest.h>
#include <sys/stat.h>

#include <fstream>

#include "base/error.h"
#include "cluster/folder.h"

using namespace sluice;

namespace {
std::string json(const Conversation& conversation) { return Value(conversation.messages()).dump_compact(); }
}  // namespace

TEST_CASE("the system prompt comes first, outlives a new beginning, and is no part of what was said") {
  Conversation c;
  c.add("user", "before");
  c.set_system("Be brief.");
  CHECK(c.said() == 0);
  c.add("user", "hello");
  CHECK(c.said() == 1);
  CHECK(json(c) == R"([{"role":"system","content":"Be brief."},{"role":"user","content":"hello"}])");
  c.reset();
  CHECK(json(c) == R"([{"role":"system","content":"Be brief."}])");
  c.drop_last();
  CHECK(c.messages().size() == 1);
  c.set_system("");
  CHECK(c.messages().empty());
}

TEST_CASE("what is taken back is the last question with whatever followed it") {
  Conversation c;
  c.set_system("s");
  for (const auto& [role, content] : {std::pair{"user", "one"}, {"assistant", "1"}, {"user", "two"}})
    c.add(role, content);
  CHECK(c.undo() == "two");
  CHECK(c.undo() == "one");
  CHECK(c.undo().empty());
  CHECK(c.messages().size() == 1);
}

TEST_CASE("a conversation that was kept is gone on with, and its file is its owner's alone") {
  const TestFolder folder;
  Conversation c, again;
  c.set_system("Be \"brief\".");
  c.add("user", "line\nline \xC3\xA9");
  c.save(folder.path / "kept.json", "a/model");
  struct stat status {};
  REQUIRE(::stat((folder.path / "kept.json").c_str(), &status) == 0);
  CHECK((status.st_mode & 0777) == 0600);
  again.load(folder.path / "kept.json");
  CHECK(json(again) == json(c));
  CHECK(again.system() == c.system());
  std::ofstream(folder.path / "list.json") << R"([{"role":"user","content":"alone"}])";
  again.load(folder.path / "list.json");
  CHECK(again.system().empty());
  CHECK(again.undo() == "alone");
}

TEST_CASE("a file that is no conversation is refused with what was found, and nothing changes") {
  const TestFolder folder;
  Conversation c;
  c.add("user", "stays");
  for (const auto& [text, words] :
       {std::pair{"{", "is not JSON"},
        {"{}", "found no list of messages"},
        {R"({"messages":7})", "found no list of messages"},
        {R"([{"content":"x"}])", "a message without a role"},
        {R"([{"role":"user","content":"x"},{"role":"user","content":[]}])", "content is no text"}}) {
    std::ofstream(folder.path / "file") << text;
    CHECK_THROWS_WITH_AS(c.load(folder.path / "file"), doctest::Contains(words), Error);
    CHECK(json(c) == R"([{"role":"user","content":"stays"}])");
  }
  CHECK_THROWS_AS(c.load(folder.path / "none"), Error);
}
