// SPDX-License-Identifier: Apache-2.0
#include "base/terminal.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <numeric>
#include <utility>

namespace sluice {
namespace {
constexpr size_t kIndent = 2, kLongestName = 28;

size_t longest_word(const std::string& text) {
  size_t longest = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find_first_of(" \n", at), text.size());
    longest = std::max(longest, width_of(std::string_view(text).substr(at, end - at)));
    at = end + 1;
  }
  return longest;
}

std::string below(const std::string& text, size_t columns) {
  return std::string(kIndent, ' ') + wrapped(text, kIndent, std::max<size_t>(columns, 12) - kIndent) + "\n";
}
}  // namespace

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

std::string broken(std::string_view text, size_t columns) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    const std::string line(text.substr(at, end - at));
    const size_t lead = std::min(line.find_first_not_of(' '), line.size());
    size_t gap = line.find("  ", lead);
    if (gap != line.npos && gap - lead > kLongestName) gap = line.npos;
    size_t begin = lead, hang = lead + kIndent;
    if (gap != line.npos) begin = hang = std::min(line.find_first_not_of(' ', gap), line.size());
    if (width_of(line) <= columns || columns <= lead + kIndent) {
      out += line;
    } else if (gap == line.npos || (hang <= columns / 2 && longest_word(line.substr(begin)) <= columns - hang)) {
      out += line.substr(0, begin) + wrapped(line.substr(begin), hang, columns - hang);
    } else {  // no room beside the name
      hang = lead + kIndent;
      out += line.substr(0, gap) + "\n" + std::string(hang, ' ') + wrapped(line.substr(begin), hang, columns - hang);
    }
    if (end < text.size()) out += '\n';
    at = end + 1;
  }
  return out;
}

std::string fitted(std::string text, int fd) {
  return ::isatty(fd) == 1 ? broken(text, terminal_columns(fd)) : std::move(text);
}

std::vector<size_t> Table::widths() const {
  std::vector<size_t> out(right_.size());
  for (const Row& row : rows_)
    for (size_t i = 0; i < row.cells.size(); ++i) out[i] = std::max(out[i], width_of(row.cells[i]));
  return out;
}

std::string Table::lines(const std::vector<size_t>& shown, size_t columns) const {
  const std::vector<size_t> wide = widths();
  std::string out;
  for (const Row& row : rows_) {
    std::string line;
    for (const size_t i : shown) {
      const std::string blanks(wide[i] - width_of(row.cells[i]), ' ');
      line += (line.empty() ? "" : "  ") + (right_[i] == 'r' ? blanks + row.cells[i] : row.cells[i] + blanks);
    }
    line.resize(line.find_last_not_of(' ') + 1);
    out += line + "\n";
    if (!row.below.empty()) out += below(row.below, columns);
  }
  return out;
}

// Of a record the first cell, then the others behind each other, never one broken where it fits a line.
std::string Table::flowing(size_t columns) const {
  std::string out;
  for (const Row& row : rows_) {
    std::string line = row.cells.front();
    bool first = true;
    for (size_t i = 1; i < row.cells.size(); ++i) {
      if (first || width_of(line) + 2 + width_of(row.cells[i]) > columns) {
        out += line + "\n";
        line = std::string(kIndent, ' ') + wrapped(row.cells[i], kIndent, columns - kIndent);
        first = false;
      } else {
        line += "  " + row.cells[i];
      }
    }
    out += line + "\n";
    if (!row.below.empty()) out += below(row.below, columns);
  }
  return out;
}

std::string Table::text_in(size_t columns) const {
  const std::vector<size_t> wide = widths();
  std::vector<size_t> shown(wide.size());
  std::iota(shown.begin(), shown.end(), 0);
  const auto used = [&] {
    size_t sum = 2 * (shown.size() - 1);
    for (const size_t i : shown) sum += wide[i];
    return sum;
  };
  std::string dropped;
  for (const size_t i : spare_) {
    if (used() <= columns) break;
    std::erase(shown, i);
    dropped += (dropped.empty() ? "" : ", ") + rows_.front().cells[i];
  }
  if (used() > columns) return flowing(columns);
  const std::string note =
      dropped.empty() ? "" : wrapped("a wider terminal has " + dropped + " too", 0, columns) + "\n";
  return lines(shown, columns) + note;
}

std::string Table::text(int fd) const {
  if (::isatty(fd) == 1) return text_in(terminal_columns(fd));
  std::vector<size_t> all(right_.size());
  std::iota(all.begin(), all.end(), 0);
  return lines(all, terminal_columns(fd));
}

}  // namespace sluice
