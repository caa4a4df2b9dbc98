// SPDX-License-Identifier: Apache-2.0
#include "chat/line_source.h"

#include <sys/eventfd.h>

#include "chat/standard.h"

using namespace sluice;

TEST_CASE("a pipe's lines come without their ends, the last one also where it has none") {
  const int wake = ::eventfd(0, 0);
  Standard standard("one\ntwo\r\n\nlast");
  const auto lines = plain_lines(wake, false);
  std::string line, all;
  while (lines->read(">>> ", line) == LineSource::Outcome::kLine) all += "[" + line + "]";
  const auto outcome = lines->read(">>> ", line);
  CHECK(standard.output().empty());
  CHECK(all == "[one][two][][last]");
  CHECK(outcome == LineSource::Outcome::kEnd);
  ::close(wake);
}

TEST_CASE("a reader that waits is woken, and reads on afterwards") {
  const int wake = ::eventfd(1, 0);
  Standard standard("one\n");
  const auto lines = plain_lines(wake, true);
  std::string line;
  const auto first = lines->read(">>> ", line);
  uint64_t count = 0;
  const bool cleared = ::read(wake, &count, sizeof count) == sizeof count;
  const auto second = lines->read("... ", line);
  CHECK(standard.output() == ">>> ... ");
  CHECK(first == LineSource::Outcome::kInterrupted);
  CHECK(cleared);
  CHECK(second == LineSource::Outcome::kLine);
  CHECK(line == "one");
  ::close(wake);
}
