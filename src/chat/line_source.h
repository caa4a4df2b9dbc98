// SPDX-License-Identifier: Apache-2.0
// Lines that a person types or a pipe brings.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

namespace sluice {

class LineSource {
 public:
  enum class Outcome { kLine, kEnd, kInterrupted };
  virtual ~LineSource() = default;
  // Without the line's end; a pasted line may hold line feeds. `prompt` is shown where somebody can see it.
  virtual Outcome read(const std::string& prompt, std::string& line) = 0;
  virtual void remember(const std::string&) {}  // for the history
};

// Whether standard input and output are a terminal that moves its cursor.
bool is_able_terminal();

// Standard input as it comes: a pipe, or a terminal that edits its lines itself. `wake` becomes readable when the wait
// shall end.
std::unique_ptr<LineSource> plain_lines(int wake, bool show_prompt);

// Line editing with history over libedit, for a terminal. The history file is read once and appended to; an empty path
// keeps none. `words` are completed by Tab at the beginning of a line.
std::unique_ptr<LineSource> edited_lines(int wake, const std::filesystem::path& history,
                                         std::vector<std::string> words);

}  // namespace sluice
