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

// Lines that are longer than `columns` broken at blanks, beneath where their own text begins: behind a name and two
// blanks, else two columns in.
std::string broken(std::string_view text, size_t columns);
// That to the width of the terminal that `fd` is; as it stands for a file or a pipe.
std::string fitted(std::string text, int fd);

// Columns as wide as their longest cell, two blanks between; the first row has their names. `right`: one letter a
// column, 'r' for those that end in line. Text behind the last column goes on lines of its own, broken to the
// terminal's width. A terminal that is too narrow does without the columns of `spare`, the first first, and says so;
// where that is not enough, a record's cells follow each other over as many lines as they need.
class Table {
 public:
  explicit Table(std::string right, std::vector<size_t> spare = {})
      : right_(std::move(right)), spare_(std::move(spare)) {}
  void add(std::vector<std::string> cells, std::string below = {}) {
    rows_.push_back({std::move(cells), std::move(below)});
  }
  std::string text(int fd) const;  // for what `fd` is; a file or a pipe gets every column
  std::string text_in(size_t columns) const;

 private:
  struct Row {
    std::vector<std::string> cells;
    std::string below;
  };
  std::vector<size_t> widths() const;
  std::string lines(const std::vector<size_t>& shown, size_t columns) const;
  std::string flowing(size_t columns) const;
  const std::string right_;
  const std::vector<size_t> spare_;
  std::vector<Row> rows_;
};

}  // namespace sluice
