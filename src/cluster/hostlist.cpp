// SPDX-License-Identifier: Apache-2.0
#include "cluster/hostlist.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstdint>

#include "base/error.h"

namespace sluice {
namespace {

constexpr size_t kMostNames = 256 * 1024;  // Slurm's MAX_RANGES
constexpr size_t kMostDigits = 32;
constexpr size_t kLongestName = 255;  // of the domain name system

[[noreturn]] void refuse(std::string_view list, size_t at, std::string_view why) {
  throw Error(fmt::format("host list '{}', character {}: {}; expected the form node[1-3,7],login", list, at + 1, why));
}

bool is_separator(char c) { return c == ',' || c == ' ' || c == '\t' || c == '\n'; }

// The numbers of one bracket, [begin, end) in list, already padded.
std::vector<std::string> expand_bracket(std::string_view list, size_t begin, size_t end) {
  std::vector<std::string> numbers;
  size_t at = begin;
  while (true) {
    size_t stop = at;
    while (stop < end && list[stop] != ',') ++stop;
    const std::string_view item = list.substr(at, stop - at);
    const size_t dash = item.find('-');
    const std::string_view low = item.substr(0, dash);
    const std::string_view high = dash == std::string_view::npos ? low : item.substr(dash + 1);
    const auto number = [&](std::string_view text) {
      uint64_t value = 0;
      const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), value);
      if (text.empty() || error != std::errc() || rest != text.data() + text.size()) {
        refuse(list, at, fmt::format("'{}' is not a number or a range", item));
      }
      return value;
    };
    const uint64_t first = number(low), last = number(high);
    if (low.size() > kMostDigits) refuse(list, at, fmt::format("a number of more than {} digits", kMostDigits));
    if (first > last) refuse(list, at, fmt::format("the range '{}' runs backwards", item));
    if (last - first >= kMostNames - numbers.size()) refuse(list, at, fmt::format("more than {} names", kMostNames));
    for (uint64_t i = 0; i <= last - first; ++i) numbers.push_back(fmt::format("{:0{}}", first + i, low.size()));
    if (stop == end) return numbers;
    at = stop + 1;
  }
}

}  // namespace

std::vector<std::string> expand_hostlist(std::string_view list) {
  std::vector<std::string> names;
  size_t at = 0;
  while (at < list.size()) {
    if (is_separator(list[at])) {
      ++at;
      continue;
    }
    std::vector<std::string> partial = {""};  // names of this item so far; a bracket multiplies them
    for (; at < list.size() && !is_separator(list[at]); ++at) {
      if (list[at] == ']') refuse(list, at, "']' without '['");
      if (partial.front().size() >= kLongestName)
        refuse(list, at, fmt::format("a name of more than {} characters", kLongestName));
      if (list[at] != '[') {
        for (std::string& name : partial) name += list[at];
        continue;
      }
      const size_t end = list.find_first_of("[]", at + 1);
      if (end == std::string_view::npos) refuse(list, at, "'[' is never closed");
      if (list[end] == '[') refuse(list, end, "brackets do not nest");
      const std::vector<std::string> numbers = expand_bracket(list, at + 1, end);
      if (partial.size() * numbers.size() > kMostNames) refuse(list, at, fmt::format("more than {} names", kMostNames));
      std::vector<std::string> product;
      product.reserve(partial.size() * numbers.size());
      for (const std::string& name : partial) {
        for (const std::string& number : numbers) product.push_back(name + number);
      }
      partial = std::move(product);
      at = end;
    }
    if (names.size() + partial.size() > kMostNames) refuse(list, at - 1, fmt::format("more than {} names", kMostNames));
    names.insert(names.end(), partial.begin(), partial.end());
  }
  return names;
}

std::vector<int> expand_task_counts(std::string_view list, int hosts) {
  std::vector<int> counts;
  const auto refuse_counts = [&](const std::string& why) {
    throw Error(fmt::format("task counts '{}': {}; expected the form 2(x3),1", list, why));
  };
  const auto number = [&](std::string_view text) {
    int value = 0;
    const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || rest != text.data() + text.size() || value < 1)
      refuse_counts(fmt::format("'{}' is not a count", text));
    return value;
  };
  size_t at = 0;
  while (at <= list.size()) {
    const size_t stop = std::min(list.find(',', at), list.size());
    std::string_view item = list.substr(at, stop - at);
    int times = 1;
    if (const size_t open = item.find("(x"); open != std::string_view::npos) {
      if (item.back() != ')') refuse_counts(fmt::format("'{}' lacks its ')'", item));
      times = number(item.substr(open + 2, item.size() - open - 3));
      item = item.substr(0, open);
    }
    const int count = number(item);
    if (static_cast<size_t>(times) > kMostNames - counts.size())
      refuse_counts(fmt::format("more than {} hosts", kMostNames));
    counts.insert(counts.end(), static_cast<size_t>(times), count);
    at = stop + 1;
  }
  if (hosts >= 0 && counts.size() != static_cast<size_t>(hosts)) {
    refuse_counts(fmt::format("they are for {} hosts, but the node list has {}", counts.size(), hosts));
  }
  return counts;
}

}  // namespace sluice
