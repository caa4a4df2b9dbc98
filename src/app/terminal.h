// SPDX-License-Identifier: Apache-2.0
// Text that fits where it is shown.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace sluice {

// Of the terminal that `fd` is; 100 for a file or a pipe.
size_t terminal_columns(int fd);
// Characters that take a column each, of UTF-8 text without escape sequences.
size_t width_of(std::string_view text);
// Its first characters, at most `columns`; "..." in place of what is cut off.
std::string cut_to(const std::string& text, size_t columns);
// Text broken at blanks to `columns`, later lines behind `indent` blanks. Line ends of its own stay.
std::string wrapped(const std::string& text, size_t indent, size_t columns);

// Columns as wide as their longest cell, two blanks between. `right`: one letter a column, 'r' for those that end in
// line. Text behind the last column goes on lines of its own, broken to the terminal's width.
class Table {
 public:
  explicit Table(std::string right) : right_(std::move(right)) {}
  void add(std::vector<std::string> cells, std::string below = {}) {
    rows_.push_back({std::move(cells), std::move(below)});
  }
  std::string text(size_t columns) const;

 private:
  struct Row {
    std::vector<std::string> cells;
    std::string below;
  };
  const std::string right_;
  std::vector<Row> rows_;
};

}  // namespace sluice
