// SPDX-License-Identifier: Apache-2.0
#include "api/origin.h"

#include <algorithm>
#include <cctype>

namespace sluice {
namespace {
std::string lower(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(), [](unsigned char c) { return std::tolower(c); });
  return out;
}

// Without the port; brackets of IPv6 stay.
std::string_view without_port(std::string_view host) {
  if (host.starts_with('[')) return host.substr(0, host.find(']') + 1);
  return host.substr(0, host.find(':'));
}

bool is_local(std::string_view name) { return name == "localhost" || name == "127.0.0.1" || name == "[::1]"; }

bool is_address(std::string_view name) {
  if (name.starts_with('[')) return name.ends_with(']');
  return !name.empty() &&
         std::all_of(name.begin(), name.end(), [](char c) { return c == '.' || (c >= '0' && c <= '9'); });
}
}  // namespace

bool origin_allowed(std::string_view origin, const std::vector<std::string>& allowed) {
  const std::string wanted = lower(origin);
  return std::any_of(allowed.begin(), allowed.end(), [&](const std::string& one) {
    if (one == "*") return true;
    if (one == "local") {
      return wanted.starts_with("http://") && is_local(without_port(std::string_view(wanted).substr(7)));
    }
    return lower(one) == wanted;
  });
}

bool host_allowed(std::string_view host, const std::vector<std::string>& names) {
  const std::string name = lower(without_port(host));
  if (name.empty() || is_local(name) || is_address(name)) return true;
  return std::any_of(names.begin(), names.end(), [&](const std::string& own) {
    const std::string mine = lower(own);
    if (mine == "*" || name == mine) return true;
    // "n1" stands for n1.cluster.org too, and the other way round.
    const std::string &longer = name.size() > mine.size() ? name : mine,
                      &shorter = name.size() > mine.size() ? mine : name;
    return !shorter.empty() && longer.starts_with(shorter) && longer[shorter.size()] == '.';
  });
}

bool same_host(std::string_view origin, std::string_view host) {
  const size_t scheme = origin.find("://");
  return scheme != std::string_view::npos && !host.empty() &&
         lower(without_port(origin.substr(scheme + 3))) == lower(without_port(host));
}

std::vector<std::string> comma_list(std::string_view text) {
  std::vector<std::string> out;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    std::string_view part = text.substr(begin, end - begin);
    while (!part.empty() && part.front() == ' ') part.remove_prefix(1);
    while (!part.empty() && part.back() == ' ') part.remove_suffix(1);
    if (!part.empty()) out.emplace_back(part);
    begin = end + 1;
  }
  return out;
}

}  // namespace sluice
