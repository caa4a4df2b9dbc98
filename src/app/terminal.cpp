// SPDX-License-Identifier: Apache-2.0
#include "app/terminal.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>

namespace sluice {

size_t terminal_columns(int fd) {
  constexpr size_t kElsewhere = 100;
  if (::isatty(fd) != 1) return kElsewhere;
  winsize size{};
  return ::ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 20 ? size.ws_col : 80;
}

size_t width_of(std::string_view text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }));
}

std::string cut_to(const std::string& text, size_t columns) {
  if (width_of(text) <= columns) return text;
  if (columns < 4) return {};
  size_t end = 0;
  for (size_t used = 0; end < text.size(); ++end) {
    const bool begins = (static_cast<unsigned char>(text[end]) & 0xc0) != 0x80;
    if (begins && ++used > columns - 3) break;
  }
  return text.substr(0, end) + "...";
}

std::string wrapped(const std::string& text, size_t indent, size_t columns) {
  std::string out;
  const std::string next = "\n" + std::string(indent, ' ');
  size_t used = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find_first_of(" \n", at), text.size());
    const std::string_view word = std::string_view(text).substr(at, end - at);
    if (used > 0 && used + 1 + width_of(word) > columns) {
      out += next;
      used = 0;
    } else if (used > 0) {
      out += ' ';
      ++used;
    }
    out += word;
    used += width_of(word);
    if (end < text.size() && text[end] == '\n') {
      out += next;
      used = 0;
    }
    at = end + 1;
  }
  return out;
}

std::string Table::text(size_t columns) const {
  constexpr size_t kIndent = 2;
  std::vector<size_t> widths(right_.size());
  for (const Row& row : rows_)
    for (size_t i = 0; i < row.cells.size(); ++i) widths[i] = std::max(widths[i], width_of(row.cells[i]));
  std::string out;
  for (const Row& row : rows_) {
    std::string line;
    for (size_t i = 0; i < row.cells.size(); ++i) {
      const std::string blanks(widths[i] - width_of(row.cells[i]), ' ');
      line += (i > 0 ? "  " : "") + (right_[i] == 'r' ? blanks + row.cells[i] : row.cells[i] + blanks);
    }
    line.resize(line.find_last_not_of(' ') + 1);
    out += line + "\n";
    if (!row.below.empty())
      out += std::string(kIndent, ' ') + wrapped(row.below, kIndent, std::max<size_t>(columns, 40) - kIndent) + "\n";
  }
  return out;
}

}  // namespace sluice
