// SPDX-License-Identifier: Apache-2.0
#include "text/channels.h"

#include <doctest/doctest.h>

#include <vector>

namespace sluice {
namespace {

struct Read {
  std::string content, reasoning;
};
// In pieces of `size` bytes, each read by itself.
Read read(std::string_view answer, size_t size) {
  ChannelReader reader;
  Read out;
  for (size_t at = 0; at < answer.size(); at += size)
    reader.read(answer.substr(at, size), false, out.content, out.reasoning);
  reader.read("", true, out.content, out.reasoning);
  return out;
}

struct Case {
  const char *answer, *content, *reasoning;
};
const std::vector<Case> kCases = {
    {"<|channel|>analysis<|message|>They greet.<|end|><|start|>assistant<|channel|>final<|message|>Hello "
     "<b|!<|return|>",
     "Hello <b|!", "They greet."},
    // Cut by the token limit: in a body, in a marker that never ends, in a header.
    {"<|channel|>analysis<|message|>Let me", "", "Let me"},
    {"<|channel|>final<|message|>2 < 3 <|en", "2 < 3 <|en", ""},
    {"<|channel|>analysis<|message|>So<|end|><|start|>assistant<|chan", "", "So"},
    // A call, with what was said on the way to it.
    {"<|channel|>analysis<|message|>Look it up.<|end|><|start|>assistant<|channel|>commentary to=functions.weather "
     "<|constrain|>json<|message|>{\"city\": \"Bern\"}<|call|>",
     "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Bern\"}}\n</tool_call>", "Look it up."},
    {" to=functions.now<|channel|>commentary json<|message|><|call|>",
     "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>", ""},
    {"<|channel|>commentary<|message|>First I look.<|end|><|start|>assistant<|channel|>final<|message|>Done.", "Done.",
     "First I look."},
    // A channel that opens without the end of the one before.
    {"<|channel|>analysis<|message|>a<|channel|>final<|message|>b", "b", "a"},
    // No channels at all.
    {"Plain words, <|message for nobody.", "Plain words, <|message for nobody.", ""},
    {"", "", ""},
};

TEST_CASE("An answer in channels is content, reasoning and calls, however it is cut into pieces") {
  for (const Case& c : kCases) {
    CAPTURE(c.answer);
    for (size_t size = 1; size < 40; ++size) {
      CAPTURE(size);
      const Read got = read(c.answer, size);
      CHECK(got.content == c.content);
      CHECK(got.reasoning == c.reasoning);
    }
  }
}

TEST_CASE("Content comes out at once, but for what may be the begin of a marker") {
  ChannelReader reader;
  Read out;
  reader.read("<|channel|>final<|message|>One <", false, out.content, out.reasoning);
  CHECK(out.content == "One ");
  reader.read("|x", false, out.content, out.reasoning);
  CHECK(out.content == "One <|x");
}

TEST_CASE("A long beginning without a header is content before it ends") {
  ChannelReader reader;
  Read out;
  reader.read(std::string(2000, 'x'), false, out.content, out.reasoning);
  CHECK(out.content == std::string(2000, 'x'));
}

}  // namespace
}  // namespace sluice
